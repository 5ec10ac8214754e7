"""Files for serving: the Triton model repository, KServe samples and the README of a bundle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
