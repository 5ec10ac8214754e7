"""Trials in separate processes: each loads the model and the rows once, then prunes and tunes at one point after another."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
