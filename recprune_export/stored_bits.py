"""Bits of stored weights: the bits of each weight, the bytes that they take, and the rounding.

This module needs no PyTorch, and imports no other module of the package. A table is stored by row: each row has a scale, and its numbers
are levels times the scale. Scales lie on the grid 2^(k / 16), so that a scale is a code of one byte, counted from the largest scale of
the table; in 8 bits, a table of one dimension has one scale for all rows. A layer W [inputs, outputs] is stored likewise, with a row for
each output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

TABLE_BITS = (32, 16, 8, 4, 3, 2)
LAYER_BITS = (32, 8, 4)

# The largest level of a row. Integer levels are -L, ..., 0, ..., L. Half-integer levels are -L, ..., -.5, .5, ..., L:
# with so few levels an exact 0 costs more than it gains; a row of zeros has the scale 0. 7 bits, for integers that are
# multiplied, are stored in 8.
LEVELS: Mapping[int, float] = {8: 127.0, 7: 63.0, 4: 7.0, 3: 3.5, 2: 1.5}
STEPS_PER_OCTAVE = 16  # of the grid of scales; a finer grid would cost more bytes than it would save: table-formats
# The number of grid steps by which a scale may be below that of the largest number of its row: levels become finer and
# the largest numbers are clipped.
_SHRINKING: Mapping[int, tuple[int, ...]] = {8: (), 7: (), 4: (2, 4, 6, 8), 3: (2, 4, 6, 8, 11), 2: (3, 6, 9, 12, 15)}
_SLACK = 1e-3  # of a step: a number that was rounded to the largest level must give the same scale again


@dataclass(frozen=True)
class StoredBits:
    """The bits of each weight of an ONNX file, by the name of the weight.

    `tables`: one of `TABLE_BITS`; a table that is not listed has 32. `layers`: one of `LAYER_BITS`; a layer that is not
    listed has `other_layers`. Raises `ValueError` for other numbers.
    """

    tables: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    other_layers: int = 32

    def __post_init__(self) -> None:
        for name, bits in self.tables.items():
            if bits not in TABLE_BITS:
                raise ValueError(f"The table '{name}' cannot have {bits} bits, only {', '.join(map(str, TABLE_BITS))}.")
        for name, bits in {**self.layers, "": self.other_layers}.items():
            if bits not in LAYER_BITS:
                raise ValueError(f"The layer '{name}' cannot have {bits} bits, only {', '.join(map(str, LAYER_BITS))}.")

    def get_table(self, name: str) -> int:
        """Return the bits of a table."""
        return self.tables.get(name, 32)

    def get_layer(self, name: str) -> int:
        """Return the bits of a layer."""
        return self.layers.get(name, self.other_layers)

    def with_weights(self, tables: Mapping[str, int], layers: Mapping[str, int]) -> Self:
        """Return the bits for other weights; `other_layers` is kept."""
        return type(self)(tables, layers, self.other_layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"tables": dict(self.tables), "layers": dict(self.layers), "other_layers": self.other_layers}


def count_weight_bytes(shape: tuple[int, int], bits: int, *, is_table: bool) -> int:
    """Return the bytes of a table [rows, dimensions] or layer [inputs, outputs] without bias, scales included.

    The file has as many bytes, or fewer if a smaller form is chosen. Fewer bits never take more bytes: see `effective_bits`. Nodes that
    read the weight, and names, are not included.

    >>> count_weight_bytes((7000, 1), 8, is_table=True), count_weight_bytes((7000, 16), 3, is_table=True)
    (7001, 49000)
    """
    return _count_bytes(shape, effective_bits(shape, bits, is_table=is_table), is_table)


def effective_bits(shape: tuple[int, int], bits: int, *, is_table: bool) -> int:
    """Return the bits that a weight actually gets for `bits`: more if that takes no more bytes.

    With few dimensions the scales and the padding of a row take more than the saved bits.

    >>> effective_bits((7000, 3), 3, is_table=True), effective_bits((7000, 16), 3, is_table=True)
    (4, 3)
    """
    candidates = [wider for wider in (TABLE_BITS if is_table else LAYER_BITS) if wider >= bits]
    return min(candidates, key=lambda wider: (_count_bytes(shape, wider, is_table), -wider))


def _count_bytes(shape: tuple[int, int], bits: int, is_table: bool) -> int:
    rows, dimensions = shape if is_table else shape[::-1]
    if bits >= 16:
        return rows * dimensions * bits // 8
    return rows * count_row_bytes(dimensions, bits) + count_scales(rows, dimensions, bits)


def count_scales(rows: int, dimensions: int, bits: int) -> int:
    """Return the number of scales of a matrix, of one byte each: one for each row, or one for a single column in 8 bits."""
    return 1 if has_one_scale(dimensions, bits) else rows


def has_one_scale(dimensions: int, bits: int) -> bool:
    """Return whether all rows share one scale: if a row has one number, a separate scale would double the bytes."""
    return dimensions == 1 and bits == 8


def count_row_bytes(dimensions: int, bits: int) -> int:
    """Return the bytes of the levels of one row: in 3 bits a plane of 2 bits and a plane of 1 bit."""
    return sum(-(-dimensions * plane // 8) for plane in ((2, 1) if bits == 3 else (bits,)))


def fit_scales(rows: Any, bits: int, namespace: Any = np) -> Any:
    """Return the scale of each row of a matrix [N, D], float32 [N, 1]; 0 for a row of zeros, unless all rows have one scale.

    In 8 bits, the scale is that of the largest number of the row, rounded up to the grid; in fewer bits it is the one with the smallest
    squared error among this scale and a few smaller ones. For a matrix that `round_rows` returned, the result is its exact scale. `rows`
    are an array of `namespace`, which is `numpy` or `torch`. Time: a few passes over the rows for each candidate.
    """
    xp, level = namespace, LEVELS[bits]
    largest = xp.amax(xp.abs(rows), 1)[:, None]
    if has_one_scale(rows.shape[1], bits) and len(rows):
        largest = xp.ones_like(largest) * xp.amax(largest)
    nonzero = largest >= float(np.finfo(np.float32).tiny) * 2**17
    code = xp.ceil(STEPS_PER_OCTAVE * xp.log2(xp.where(nonzero, largest, xp.ones_like(largest)) / level) - _SLACK)
    best = _scale_of(code, xp)
    if _SHRINKING[bits]:
        least = _squared_errors(rows, best, bits, xp)
        for steps in _SHRINKING[bits]:
            scales = _scale_of(code - steps, xp)
            errors = _squared_errors(rows, scales, bits, xp)
            best = xp.where(errors < least, scales, best)
            least = xp.where(errors < least, errors, least)
    return xp.where(nonzero, best, xp.zeros_like(best))


def round_rows(rows: Any, scales: Any, bits: int, namespace: Any = np) -> Any:
    """Return the rows [N, D] as the file stores them: the nearest levels times the scales [N, 1]."""
    return find_levels(rows, scales, bits, namespace) * scales


def find_levels(rows: Any, scales: Any, bits: int, namespace: Any = np) -> Any:
    """Return the nearest level of each number, [N, D], for rows with the scales [N, 1]; any level for scale 0."""
    xp, level = namespace, LEVELS[bits]
    values = rows / xp.where(scales > 0, scales, xp.ones_like(scales))
    return xp.clip(xp.round(values) if level == int(level) else xp.floor(values) + 0.5, -level, level)


def _scale_of(code: Any, xp: Any) -> Any:
    """Return 2^(code / 16), rounded once, so that every library gives the same float32."""
    return xp.asarray(xp.exp2(xp.asarray(code, dtype=xp.float64) / STEPS_PER_OCTAVE), dtype=xp.float32)


def _squared_errors(rows: Any, scales: Any, bits: int, xp: Any) -> Any:
    return xp.sum((round_rows(rows, scales, bits, xp) - rows) ** 2, 1)[:, None]
