"""Programs of ONNX files: the graph is read, run by PyTorch's operators, captured, and compared with ONNX Runtime."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
