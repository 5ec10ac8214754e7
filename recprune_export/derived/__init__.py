"""ONNX files that are made from the pruned model, such as a file that takes raw values, and their validation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
