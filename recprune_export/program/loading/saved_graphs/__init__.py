"""Programs from saved graphs: `.pt2` archives, including those with a fixed batch size, and TorchScript."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
