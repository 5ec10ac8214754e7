"""`join_rows`: the rows of several sources, one after the other."""

from collections.abc import Iterator, Sequence

import numpy as np

from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Ragged, Rows


def join_rows(sources: Sequence[RowSource]) -> RowSource:
    """Return the rows of all sources in their order: in memory if all of them are, otherwise read from the sources.

    >>> joined = join_rows([Rows({"x": np.arange(2)}, {}), Rows({"x": np.arange(3)}, {})])
    >>> joined.sample(9, seed=0).inputs["x"].tolist()
    [0, 1, 0, 1, 2]
    """
    if all(type(source) is Rows for source in sources):
        return concatenate_rows([source for source in sources if isinstance(source, Rows)])
    return JoinedRows(tuple(sources))


def concatenate_rows(batches: Sequence[Rows]) -> Rows:
    """Return the rows of batches with the same inputs and labels as one, in memory."""
    weights = [batch.weights for batch in batches if batch.weights is not None]
    groups = [batch.groups for batch in batches if batch.groups is not None]
    excluded = [batch.excluded_items for batch in batches if batch.excluded_items is not None]
    return Rows(
        {name: np.concatenate([batch.inputs[name] for batch in batches]) for name in batches[0].inputs},
        {name: np.concatenate([batch.labels[name] for batch in batches]) for name in batches[0].labels},
        Ragged.concatenate(excluded) if excluded else None,
        np.concatenate(weights) if weights else None,
        np.concatenate(groups) if groups else None,
    )


class JoinedRows:
    """A `RowSource` of the rows of several sources.

    If shuffled, the rows of each source are in the order of that source, and every batch has rows of all sources, in proportion to their
    remaining rows.
    """

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self._sources = tuple(sources)

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yield batches of `size` rows, the last one shorter: in order, or shuffled by `seed`."""
        pieces = self._in_order(size) if seed is None else self._shuffled(size, seed)
        for batch in _cut(pieces, size):
            yield batch.take(np.arange(len(batch))[rank::world_size])

    def sample(self, count: int, seed: int) -> Rows:
        """Return `count` rows drawn without replacement, or all if there are fewer."""
        sizes = [len(source) for source in self._sources]
        rng = np.random.default_rng(seed)
        counts = rng.multivariate_hypergeometric(sizes, min(count, sum(sizes)), method="marginals")
        drawn = zip(self._sources, counts, strict=True)
        parts = [source.sample(int(n), seed) for source, n in drawn if n] or [self._sources[0].sample(0, seed)]
        return concatenate_rows(parts)

    def _in_order(self, size: int) -> Iterator[Rows]:
        for source in self._sources:
            yield from source.batches(size)

    def _shuffled(self, size: int, seed: int) -> Iterator[Rows]:
        """Yield rows of all sources in turn, in larger pieces from sources with more rows."""
        rng = np.random.default_rng(seed)
        turns = max(1, len(self) // size)
        running = [source.batches(max(1, -(-len(source) // turns)), seed) for source in self._sources]
        while running:
            parts = [next(batches, None) for batches in running]
            running = [batches for batches, part in zip(running, parts, strict=True) if part is not None]
            known = [part for part in parts if part is not None]
            if known:
                mixed = concatenate_rows(known)
                yield mixed.take(rng.permutation(len(mixed)))


def _cut(pieces: Iterator[Rows], size: int) -> Iterator[Rows]:
    """Yield the rows of pieces in batches of `size`."""
    held: list[Rows] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        while count >= size:
            whole = concatenate_rows(held)
            yield whole.take(np.arange(size))
            held, count = [whole.take(np.arange(size, count))], count - size
    if count:
        yield concatenate_rows(held)
