"""Several processes of one run, started by torchrun: ranks, collectives, row-sharded tables; with one process, all of this has no
effect."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
