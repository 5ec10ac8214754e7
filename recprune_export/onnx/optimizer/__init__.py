"""Rewrites of ONNX graphs for recommenders, each checked for equal outputs and lower cost."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
