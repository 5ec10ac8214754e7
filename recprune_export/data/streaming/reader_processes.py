"""`read_in_processes`: windows of rows read by several processes, in the order of one."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.error_text import first_line
from recprune_export.errors import DataError
from recprune_export.interrupts import block_interrupts

if TYPE_CHECKING:
    from recprune_export.data.streaming.streamed_rows import StreamedRows


def read_in_processes(rows: "StreamedRows", seed: int, readers: int) -> Iterator[np.ndarray]:
    """Yield the records of each window of an epoch, as one process would: reader r reads the windows r, r + readers, ... .

    The processes are those of PyTorch's DataLoader, started again: none inherits a thread. They end with the iterator.

    Raises `DataError` if one of them ends early.
    """
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*worker processes in total.*")  # the user gave their number
        loader: Any = DataLoader(
            _make_window_dataset(rows, seed),
            batch_size=None,
            num_workers=readers,
            prefetch_factor=1,
            multiprocessing_context="spawn",
        )
        with block_interrupts():  # Ctrl-C reaches this process, which ends the others
            windows = iter(loader)
    try:
        for window in windows:
            yield window.numpy().view(rows.record_dtype)
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two where it was sending a window
        raise DataError(
            f"A reader process ended early ({first_line(error)}): give --readers 0 to read the rows in this process."
        ) from error


def _make_window_dataset(rows: "StreamedRows", seed: int) -> Any:
    from recprune_export.data.streaming.window_dataset import WindowDataset

    return WindowDataset(rows, seed)
