"""`WindowDataset`: the windows of an epoch for PyTorch's DataLoader; each worker reads its share of them."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from recprune_export.data.records.read_windows import WindowSource


class WindowDataset(IterableDataset):
    """Yields the records of each window as bytes, uint8 [rows * bytes of a record]."""

    def __init__(self, source: WindowSource, seed: int) -> None:
        self._source, self._seed = source, seed

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for window in islice(self._source.epoch_windows(self._seed), first, None, step):
            yield torch.from_numpy(self._source.read_window(window).view(np.uint8))
