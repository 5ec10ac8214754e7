"""Tile sparsity: units of a linear layer in groups, each of which reads its own subset of the inputs, all of one size.

The pattern is found in the zeros themselves, so any model that has it is served, whoever set the zeros.
"""

from dataclasses import dataclass

import numpy as np

FEWEST_UNITS = 8  # of a tile on average: below, products are too small to be worth their calls
MOST_WORK = 0.75  # of the dense layer's multiply-adds, with what fills up uneven tiles
NEARLY = 0.9  # of a support: a row that has so much of it belongs to it, its other zeros being accidents
NOTHING = -1  # fills up


@dataclass(frozen=True)
class Tiles:
    """Which outputs each tile computes, [tiles, tile], from which inputs, [tiles, k]; -1 fills up uneven ones."""

    units: np.ndarray
    inputs: np.ndarray

    @property
    def work(self) -> int:
        """Multiply-adds for one row."""
        return int(self.units.size * self.inputs.shape[1])

    def rows(self, outputs: int) -> np.ndarray:
        """Return the place of each output, [outputs], among the rows of all tiles."""
        places = np.zeros(outputs, dtype=np.int64)
        flat = self.units.reshape(-1)
        (filled,) = np.nonzero(flat >= 0)
        places[flat[filled]] = filled
        return places

    def with_room(self) -> "Tiles":
        """Return the same with at least one row that nothing fills yet.

        >>> tiles = Tiles(units=np.array([[0, 1], [2, 3]]), inputs=np.array([[0], [1]]))
        >>> tiles.with_room().units.tolist()
        [[0, 1, -1], [2, 3, -1]]
        """
        if (self.units == NOTHING).any():
            return self
        return Tiles(np.pad(self.units, ((0, 0), (0, 1)), constant_values=NOTHING), self.inputs)

    def weights(self, matrix: np.ndarray) -> np.ndarray:
        """Return the weights that are not zero, [tiles, tile, k], of a matrix [inputs, outputs]."""
        chosen = matrix[self.inputs[:, None, :], self.units[:, :, None]]
        fills = (self.inputs[:, None, :] == NOTHING) | (self.units[:, :, None] == NOTHING)
        return np.where(fills, 0.0, chosen)


def find_tiles(matrix: np.ndarray) -> Tiles | None:
    """Return the tiles of a matrix [inputs, outputs], or None where its zeros do not fall into any that save work.

    Outputs that read the same inputs share a tile. Where groups are uneven, they are divided and filled up so that the
    least is computed.

    >>> tiles = find_tiles(np.kron(np.eye(2), np.ones((4, 8))))  # two blocks of 4 inputs and 8 outputs
    >>> tiles.inputs.tolist(), tiles.units.shape
    ([[0, 1, 2, 3], [4, 5, 6, 7]], (2, 8))
    """
    inputs, outputs = matrix.shape
    if np.count_nonzero(matrix) > MOST_WORK * matrix.size:  # told before anything as large as a table is copied
        return None
    groups = _groups(matrix.T != 0)
    if not groups:
        return None
    most = max(len(support) for _, support in groups)
    sizes = sorted({len(units) for units, _ in groups}, reverse=True)
    tile = min(sizes, key=lambda size: sum(-(-len(units) // size) for units, _ in groups) * size)
    pieces = [
        (units[start : start + tile], support) for units, support in groups for start in range(0, len(units), tile)
    ]
    if len(pieces) * tile * most > MOST_WORK * inputs * outputs:
        return None
    return Tiles(
        np.stack([_filled(units, tile) for units, _ in pieces]),
        np.stack([_filled(support, most) for _, support in pieces]),
    )


def _filled(numbers: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([numbers, np.full(length - len(numbers), NOTHING)]).astype(np.int64)


def _groups(support: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Units and inputs of each group, from [outputs, inputs]; none where there are too many, or nothing is read at all."""
    packed, group_of = np.unique(np.packbits(support, axis=1), axis=0, return_inverse=True)
    if len(packed) > len(support) / FEWEST_UNITS or not support.any():
        return []
    group_of = group_of.reshape(-1)
    supports = np.unpackbits(packed, axis=1, count=support.shape[1]).astype(bool)
    sizes = supports.sum(axis=1)
    order = np.argsort(-sizes, kind="stable")
    joined: dict[int, list[int]] = {}  # the group that is read in full -> those that lack a few of its inputs
    for number in order:
        wider = [
            whole
            for whole in joined
            if not (supports[number] & ~supports[whole]).any()
            and (sizes[number] >= NEARLY * sizes[whole] or not sizes[number])
        ]
        joined.setdefault(min(wider, key=lambda whole: int(sizes[whole])) if wider else int(number), []).append(
            int(number)
        )
    found = [
        (np.flatnonzero(np.isin(group_of, members)), np.flatnonzero(supports[whole]))
        for whole, members in joined.items()
    ]
    return sorted(found, key=lambda group: int(group[0][0]))
