"""`user.onnx` and `item.onnx`: a model of two towers, cut where they meet, and an index of the vectors of items."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
