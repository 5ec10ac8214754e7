"""Reference recommenders in plain PyTorch, one file each: `request` in, one logit for each label out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
