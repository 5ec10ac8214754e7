"""Regression gates for CI: compare signature, quality, sizes and latency of a new artifact to those of the old one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
