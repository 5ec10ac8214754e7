"""`shuffle_in_windows`: the random order in which an epoch reads a file: blocks are shuffled, then the rows of many at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

WINDOW_BYTES = 1 << 25  # docs/decisions/rows-in-files.md
BLOCKS = 64  # of a window


@dataclass(frozen=True)
class Window:
    """Rows that are in memory together: `ranges` [start, stop) of a file, read one after the other, and then their `order`.

    `order`, [rows], are positions among the rows of the ranges; None keeps their order.
    """

    ranges: list[tuple[int, int]]
    order: np.ndarray | None = None


def shuffle_in_windows(count: int, window_rows: int, seed: int | None) -> Iterator[Window]:
    """Yield windows that together hold each of `count` rows once; without a seed they are in order.

    A window has `BLOCKS` blocks from any position in the file. If all rows fit into one window, the order is that of `Rows.batches`, a
    permutation of all rows. Time and memory: those of a window, and 8 bytes per block.

    >>> [window.ranges for window in shuffle_in_windows(5, 2, None)]
    [[(0, 2)], [(2, 4)], [(4, 5)]]
    >>> sorted(sum((list(range(*r)) for w in shuffle_in_windows(300, 128, 7) for r in w.ranges), [])) == list(range(300))
    True
    """
    if seed is None:
        for start in range(0, count, window_rows):
            yield Window([(start, min(start + window_rows, count))])
        return
    random = np.random.default_rng(seed)
    if count <= window_rows:
        if count:
            yield Window([(0, count)], random.permutation(count))
        return
    block_rows = -(-window_rows // BLOCKS)
    blocks = random.permutation(-(-count // block_rows))
    for first in range(0, len(blocks), BLOCKS):
        starts = (blocks[first : first + BLOCKS] * block_rows).tolist()
        ranges = [(start, min(start + block_rows, count)) for start in starts]
        yield Window(ranges, random.permutation(sum(stop - start for start, stop in ranges)))
