"""State dicts of model files: readers that execute nothing, and the names by which a module takes the weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
