"""Export of a program to an ONNX file: translation, graph rewrites, counts, sessions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
