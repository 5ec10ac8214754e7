"""`split`: a bundle of two towers with a file for each, the vectors of items and an index of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
