"""`Rows`: requests with their labels, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recprune_export.data.encoding.encoder import Request


@dataclass(frozen=True)
class Rows:
    """N examples: each input has N on axis 0, each label is float32 [N]; for a ranking the label is an item id, int64.

    Missing labels are NaN. `excluded_items`, if any, contains the items of each user that a ranking excludes. `weights`, if any, are 0 or
    more, float32 [N]. `groups`, if any, are codes of the values of a column, from 0, or -1 for a missing value, int64 [N].
    """

    inputs: Request
    labels: dict[str, np.ndarray]
    excluded_items: "Ragged | None" = None
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: np.ndarray) -> "Rows":
        """Return the rows at `indices`."""
        return Rows(
            {name: values[indices] for name, values in self.inputs.items()},
            {name: values[indices] for name, values in self.labels.items()},
            None if self.excluded_items is None else self.excluded_items.take(indices),
            None if self.weights is None else self.weights[indices],
            None if self.groups is None else self.groups[indices],
        )

    def sample(self, count: int, seed: int) -> "Rows":
        """Return `count` rows drawn without replacement, or all if there are fewer."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.take(np.sort(chosen))

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator["Rows"]:
        """Yield batches of `size` rows, the last one shorter; shuffled if a seed is given.

        The process `rank` of `world_size` gets every `world_size`-th row of each batch.

        >>> rows = Rows({"x": np.arange(5)}, {})
        >>> [batch.inputs["x"].tolist() for batch in rows.batches(4, rank=1, world_size=2)]
        [[1, 3], []]
        """
        order = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(self), size):
            yield self.take(order[start : start + size][rank::world_size])


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: list i is `values[offsets[i]:offsets[i + 1]]`.

    >>> lists = Ragged(np.array([5, 6, 7]), np.array([0, 2, 3]))
    >>> lists[0].tolist(), len(lists), lists.take(np.array([1, 0])).values.tolist()
    ([5, 6], 2, [7, 5, 6])
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """The length of each list."""
        return np.diff(self.offsets)

    def windows(self, seed: int | None = None) -> Iterator["Ragged"]:
        """Yield all lists together, as the only window of a source of histories in memory."""
        yield self

    def take(self, indices: np.ndarray) -> "Ragged":
        """Return the lists at `indices`."""
        return Ragged.from_slices(self.values, self.offsets[:-1][indices], self.lengths[indices])

    @classmethod
    def from_slices(cls, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Return the lists that begin at `starts` of `values`, [lists], and have `lengths`, [lists]."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return cls(values[np.repeat(starts, lengths) + within], offsets)

    @classmethod
    def concatenate(cls, lists: Sequence["Ragged"]) -> "Ragged":
        """Return the lists of all of `lists`, one after the other."""
        starts = np.cumsum([0, *(len(one.values) for one in lists)])
        offsets = [one.offsets[1:] + start for one, start in zip(lists, starts, strict=False)]
        return cls(np.concatenate([one.values for one in lists]), np.concatenate([[0], *offsets]))

    def drop_last(self, count: int | np.ndarray) -> "Ragged":
        """Return each list without its last `count` values, one number or [N]; the list may become empty."""
        return Ragged.from_slices(self.values, self.offsets[:-1], np.maximum(self.lengths - count, 0))

    def drop_zeros(self) -> "Ragged":
        """Return each list without the values that are 0."""
        known = self.values != 0
        before = np.concatenate([[0], np.cumsum(known)])
        return Ragged(self.values[known], before[self.offsets])

    def pad_left(self, length: int) -> np.ndarray:
        """Return the last `length` values of each list as [N, length], zeros on the left."""
        lengths = np.minimum(self.lengths, length)
        padded = np.zeros((len(self), length), dtype=np.int64)
        row = np.repeat(np.arange(len(self)), lengths)
        from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(row))
        padded[row, length - from_end] = self.values[np.repeat(self.offsets[1:], lengths) - from_end]
        return padded
