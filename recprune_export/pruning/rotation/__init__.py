"""Transforms of a group's channels that change no output and concentrate the signal in few channels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
