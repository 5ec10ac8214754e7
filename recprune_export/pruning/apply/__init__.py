"""Application of a plan: smaller parameters, resized operators, and the proof that masked equals pruned."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
