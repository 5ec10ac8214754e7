"""Score the rows of a file with a bundle and ONNX Runtime, without PyTorch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
