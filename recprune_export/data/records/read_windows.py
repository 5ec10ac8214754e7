"""`read_windows`: the windows of an epoch one after the other; the next one is read while one is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from recprune_export.data.records.shuffled_windows import Window


class WindowSource(Protocol):
    """Records in files that are read in windows; a copy in another process reads the same files."""

    @property
    def record_dtype(self) -> np.dtype:
        """The dtype of the records that `read_window` returns."""
        ...

    def epoch_windows(self, seed: int | None) -> Iterator[Window]:
        """Return the windows of an epoch."""
        ...

    def read_window(self, window: Window) -> np.ndarray:
        """Return the records of a window, an array of one axis."""
        ...


def read_windows(source: WindowSource, seed: int | None, readers: int) -> Iterator[np.ndarray]:
    """Yield the records of each window in the order of the seed: read by a thread, or, if they are shuffled, by `readers` processes.

    Raises `DataError` if a reader process ends early.
    """
    if readers and seed is not None:
        from recprune_export.data.records.reader_processes import read_in_processes

        yield from read_in_processes(source, seed, readers)
        return
    with ThreadPoolExecutor(1) as reader:
        pending = None
        for window in source.epoch_windows(seed):
            following = reader.submit(source.read_window, window)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
