"""Write a bundle (the directory that a serving team deploys) atomically, and verify it without PyTorch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
