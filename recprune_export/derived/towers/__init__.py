"""`user.onnx` and `item.onnx`: a two-tower model, split at the operator that combines the towers, and an index of the vectors of
items."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
