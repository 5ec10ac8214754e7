"""Check whether the pruning plan of a bundle is still valid for new data, and compress again if it is not."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
