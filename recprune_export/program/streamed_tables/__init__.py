"""Tables that stay in the files of a checkpoint larger than memory: rows are read where they are looked up or transformed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
