"""Channel analysis: embedding dimensions and hidden units that can be removed, and the slices to remove with each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
