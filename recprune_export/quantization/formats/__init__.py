"""Formats in which weights are stored and multiplied: int8 layers, tables in fewer bits."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
