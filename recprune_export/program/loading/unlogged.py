"""Suppress the logs of PyTorch where its errors and warnings are reported in another way."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unlogged() -> Iterator[None]:
    """Inside the block log no warnings, and no tracebacks of an error that is then reported in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
