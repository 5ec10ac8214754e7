"""State dicts of model files: readers that execute nothing, and the matching of names with those of a module."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
