"""Rows of files that are larger than memory: the files, their blocks, and the order in which training reads them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
