"""`model.raw.onnx`: the model with the encoding of raw values inside."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
