"""A captured model: its graph, its parameters, and the signature by which it is called."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
