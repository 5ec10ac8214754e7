"""The multiple-choice knapsack problem: one option of each item, of least total loss, within a budget of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_FRONTIER = 1 << 14  # the largest number of plans that are kept; beyond it, bytes are counted in coarser units


@dataclass(frozen=True)
class Choice:
    """The index of the chosen option of each item, their total bytes and loss, and the largest possible excess over the least loss."""

    options: tuple[int, ...]
    bytes: int
    loss: float
    exact: bool


def choose_options(items: Sequence[tuple[np.ndarray, np.ndarray]], budget: int) -> Choice | None:
    """Return the choice of least loss whose bytes are within `budget`; None if no choice is.

    An item is the bytes and the losses of its options, each [options]. Items are added one by one, and only choices are kept that no
    other choice beats in both bytes and loss (dynamic programming with dominance: Kellerer et al. 2004, "Knapsack Problems", section
    11.5). The result is exact unless more than `MAX_FRONTIER` remain: then only one for each unit of bytes is kept, so that the loss may
    be above the least. Takes O(items · options · frontier · log) time.

    >>> small, large = (np.array([1, 4]), np.array([5.0, 1.0])), (np.array([2, 3]), np.array([3.0, 0.0]))
    >>> choose_options([small, large], 5).options
    (0, 1)
    """
    sizes, losses = np.zeros(1, dtype=np.int64), np.zeros(1)
    parents: list[tuple[np.ndarray, np.ndarray]] = []
    remaining = [int(item_sizes.min()) for item_sizes, _ in items]
    exact = True
    for number, (item_sizes, item_losses) in enumerate(items):
        limit = budget - sum(remaining[number + 1 :])
        all_sizes = (sizes[:, None] + item_sizes[None, :].astype(np.int64)).ravel()
        all_losses = (losses[:, None] + item_losses[None, :]).ravel()
        keep = np.flatnonzero(all_sizes <= limit)
        if not len(keep):
            return None
        order = keep[np.lexsort((all_losses[keep], all_sizes[keep]))]
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], all_losses[order]]))[:-1]
        order = order[all_losses[order] < best_before]
        if len(order) > MAX_FRONTIER:
            exact = False
            unit = max(1, (limit - int(all_sizes[order[0]])) // (MAX_FRONTIER // 2))
            cells = (all_sizes[order] - all_sizes[order[0]]) // unit
            order = order[np.flatnonzero(np.diff(np.append(cells, -1)))]  # the last of each cell loses least
        parents.append((order // len(item_sizes), order % len(item_sizes)))
        sizes, losses = all_sizes[order], all_losses[order]
    best = len(sizes) - 1  # losses fall as bytes rise
    total, loss = int(sizes[best]), float(losses[best])
    options: list[int] = []
    for before, option in reversed(parents):
        options.append(int(option[best]))
        best = int(before[best])
    return Choice(tuple(reversed(options)), total, loss, exact)
