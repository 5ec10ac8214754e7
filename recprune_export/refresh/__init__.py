"""Whether a bundle still fits new data, and the same compression again where it does not."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
