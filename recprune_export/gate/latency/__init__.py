"""Latency of two artifacts, sampled in pairs until the verdict is statistically certain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
