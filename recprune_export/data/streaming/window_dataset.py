"""`WindowDataset`: the windows of an epoch for PyTorch's DataLoader; each worker reads its share of them."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from recprune_export.data.streaming.streamed_rows import StreamedRows


class WindowDataset(IterableDataset):
    """Yields the records of each window as bytes, uint8 [rows * bytes of a record]."""

    def __init__(self, rows: StreamedRows, seed: int) -> None:
        self._rows, self._seed = rows, seed

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for window in islice(self._rows.windows(self._seed), first, None, step):
            yield torch.from_numpy(self._rows.read_window(window).view(np.uint8))
