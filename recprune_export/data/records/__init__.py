"""Encoded rows in temporary files, which are written once and read in windows."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
