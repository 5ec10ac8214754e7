"""`read_in_processes`: windows of rows read by several processes, in the same order as by one."""

import multiprocessing
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.data.records.record_file import can_share_files
from recprune_export.error_text import first_line
from recprune_export.errors import DataError, UsageError
from recprune_export.interrupts import block_interrupts

if TYPE_CHECKING:
    from recprune_export.data.records.read_windows import WindowSource


def read_in_processes(source: "WindowSource", seed: int, readers: int) -> Iterator[np.ndarray]:
    """Yield the records of each window of an epoch, in the order of a single process: reader r reads the windows r, r + readers, ... .

    The processes are those of PyTorch's DataLoader, started anew: none inherits a thread. They end with the iterator.

    Raises `DataError` if one of them ends early, `UsageError` if the system does not allow them to open the files.
    """
    from torch.utils.data import DataLoader

    if not can_share_files():
        raise UsageError(
            "--readers needs /proc, which this system does not have: leave it out, and a thread reads the rows."
        )
    dataset, others = _make_window_dataset(source, seed), set(multiprocessing.active_children())
    try:
        # Ctrl-C reaches this process, which ends the others.
        with warnings.catch_warnings(), block_interrupts():
            warnings.filterwarnings("ignore", message=".*worker processes in total.*")  # the user chose their number
            loader: Any = DataLoader(
                dataset, batch_size=None, num_workers=readers, prefetch_factor=1, multiprocessing_context="spawn"
            )
            windows = iter(loader)
        for window in windows:
            yield window.numpy().view(source.record_dtype)
    except KeyboardInterrupt:
        _kill(set(multiprocessing.active_children()) - others)
        raise
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two if it was sending a window
        raise DataError(
            f"A process that reads rows ended early ({first_line(error)}): give --readers 0 to read them in this process."
        ) from error


def _kill(processes: Collection[BaseProcess]) -> None:
    """End processes immediately: PyTorch waits five seconds for one that is still importing modules."""
    for process in processes:
        with suppress(RuntimeError):  # the error by which PyTorch reports a killed process
            process.kill()
            process.join()


def _make_window_dataset(source: "WindowSource", seed: int) -> Any:
    from recprune_export.data.records.window_dataset import WindowDataset

    return WindowDataset(source, seed)
