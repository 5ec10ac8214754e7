"""`split`: write a bundle with a file for each of two towers, the vectors of items and an index of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
