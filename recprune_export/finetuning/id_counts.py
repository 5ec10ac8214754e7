"""`IdCounts`: how often ids occur, counted batch by batch."""

import numpy as np

DENSE_IDS = (
    1 << 25
)  # smaller ids are counted in an array with an element for each, larger ones and negative ones in sorted lists
PENDING_IDS = 1 << 20


class IdCounts:
    """The number of occurrences of each id; counts of several parts of the rows can be added.

    Memory: 8 bytes for each id up to the largest one that is below `DENSE_IDS`, 16 for each distinct other id.
    """

    def __init__(self) -> None:
        self._dense = np.zeros(0, dtype=np.int64)
        self._ids, self._counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._pending: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> None:
        """Count a batch of ids, of any shape."""
        ids = ids.reshape(-1).astype(np.int64)
        is_dense = (ids >= 0) & (ids < DENSE_IDS)
        if not is_dense.all():
            self._pending.append(ids[~is_dense])
            ids = ids[is_dense]
            if sum(map(len, self._pending)) > max(PENDING_IDS, len(self._ids)):
                self._merge()
        size = int(ids.max(initial=-1)) + 1
        if size > len(self._dense):
            grown = np.zeros(min(max(size, 2 * len(self._dense)), DENSE_IDS), dtype=np.int64)
            grown[: len(self._dense)] = self._dense
            self._dense = grown
        np.add.at(self._dense, ids, 1)

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of occurrences of each of `ids`, int64 of the same shape.

        >>> counts = IdCounts()
        >>> counts.add(np.array([5, 7, 5, -1]))
        >>> counts.look_up(np.array([5, 6, -1, 2**40])).tolist()
        [2, 0, 1, 0]
        """
        self._merge()
        ids = ids.astype(np.int64)
        found = np.zeros(ids.shape, dtype=np.int64)
        is_dense = (ids >= 0) & (ids < len(self._dense))
        found[is_dense] = self._dense[ids[is_dense]]
        if len(self._ids):
            place = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
            found += np.where(self._ids[place] == ids, self._counts[place], 0)
        return found

    def _merge(self) -> None:
        """Count the ids that are pending."""
        if not self._pending:
            return
        ids, counts = np.unique(np.concatenate(self._pending), return_counts=True)
        self._pending = []
        merged, place = np.unique(np.concatenate([self._ids, ids]), return_inverse=True)
        total = np.zeros(len(merged), dtype=np.int64)
        np.add.at(total, place, np.concatenate([self._counts, counts]))
        self._ids, self._counts = merged, total
