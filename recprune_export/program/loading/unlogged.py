"""The logs of PyTorch, kept off the screen where its errors and warnings are reported otherwise."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unlogged() -> Iterator[None]:
    """Log no warnings, nor tracebacks of an error that is then reported in one sentence, inside the block."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
