"""Capture of an `nn.Module` and an example request as a `Program`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
