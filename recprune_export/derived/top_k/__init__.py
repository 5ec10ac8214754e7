"""`model.top_k.onnx`: the best items of a request, with the caller's ids."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
