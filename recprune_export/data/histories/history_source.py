"""`HistorySource`: lists of items, one for each user, in memory (`Ragged`) or in files, and batches of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from recprune_export.data.rows import Ragged


class HistorySource(Protocol):
    """Histories that are read in pieces; `Ragged` are those in memory. Code that takes a `HistorySource` never holds all of them."""

    def __len__(self) -> int:
        """The number of users."""
        ...

    def windows(self, seed: int | None = None) -> Iterator[Ragged]:
        """Yield all histories once, those of many users at a time: in order, or by `seed` from all over the source.

        Within a window they are in order. The same seed gives the same windows.
        """
        ...


class Piece(Protocol):
    """Rows that are in memory."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> Self:
        """Return the rows at `indices`."""
        ...


P = TypeVar("P", bound=Piece)


def shuffle_histories(histories: HistorySource, size: int, random: np.random.Generator, seed: int) -> Iterator[Ragged]:
    """Yield batches of `size` histories in random order: all of a window are shuffled by `random`."""
    windows = histories.windows(seed)
    return cut_batches(windows, size, Ragged.concatenate, lambda window: random.permutation(len(window)))


def cut_batches(
    pieces: Iterator[P], size: int, concatenate: Callable[[Sequence[P]], P], draw: Callable[[P], np.ndarray]
) -> Iterator[P]:
    """Yield the rows of pieces in batches of `size`, the last one shorter; from each piece, the rows that `draw` returns, in that order.

    >>> lists = [Ragged(np.arange(3), np.arange(4)), Ragged(np.arange(2), np.arange(3))]
    >>> batches = cut_batches(iter(lists), 2, Ragged.concatenate, lambda piece: np.arange(len(piece)))
    >>> [batch.values.tolist() for batch in batches]
    [[0, 1], [2, 0], [1]]
    """
    rest: P | None = None
    for piece in pieces:
        order = draw(piece)
        first = 0 if rest is None else size - len(rest)
        if rest is not None:
            rest = concatenate([rest, piece.take(order[:first])])
            if len(rest) < size:
                continue
            yield rest
            rest = None
        for start in range(first, len(order), size):
            batch = piece.take(order[start : start + size])
            if len(batch) == size:
                yield batch
            else:
                rest = batch
    if rest is not None:
        yield rest


def count_items(histories: HistorySource, items: int) -> np.ndarray:
    """Return the number of occurrences in histories of each id below `items`, int64 [items]."""
    counts = np.zeros(items, dtype=np.int64)
    for window in histories.windows():
        counts += np.bincount(window.values, minlength=items)
    return counts


def take_first_items(histories: HistorySource, count: int) -> np.ndarray:
    """Return the first `count` items of all histories, or all of them if there are fewer."""
    taken: list[np.ndarray] = []
    missing = count
    for window in histories.windows():
        taken.append(window.values[:missing])
        missing -= len(taken[-1])
        if not missing:
            break
    return np.concatenate(taken) if taken else np.zeros(0, dtype=np.int32)
