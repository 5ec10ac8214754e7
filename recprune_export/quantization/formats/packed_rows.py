"""Matrices stored by row: the bytes of the rows, and a scale for each row in one byte.

A scale is 2^(k / 16), see `stored_bits.py`. Its code is 0 for a row of zeros, otherwise 256 + k - 16 · octave, at least 16: the octave is
that of the largest scale, and rows with scales more than 14 octaves below it, which are negligible, get the smallest one. So a graph
computes all scales of a table as two factors, `make_scale_book`.
"""

from dataclasses import dataclass, replace

import numpy as np

from recprune_export.onnx.mapped_tensors import iterate_rows
from recprune_export.quantization.formats.arithmetic import INT4_ZERO, convert_rows
from recprune_export.stored_bits import (
    LEVELS,
    STEPS_PER_OCTAVE,
    count_row_bytes,
    find_levels,
    fit_scales,
    has_one_scale,
)

CODES, LEAST_CODE = 256, STEPS_PER_OCTAVE
OCTAVES = CODES // STEPS_PER_OCTAVE


@dataclass(frozen=True)
class PackedRows:
    """A matrix [N, D] in few bits: the bytes of the `rows` [N, bytes of a row], the `codes` of their scales [N, 1], or [1, 1].

    All scales are 2^`octave` times those of `scale_factors`.
    """

    rows: np.ndarray
    codes: np.ndarray
    octave: int
    bits: int
    dimensions: int

    def scales(self) -> np.ndarray:
        """Return the scale of each row, float32 [N, 1], or [1, 1]."""
        fine, coarse = scale_factors()
        return np.asarray((fine * coarse).reshape(-1)[self.codes] * np.exp2(np.float32(self.octave)))

    def without_zero_scales(self) -> "PackedRows":
        """Return the same matrix, in whole levels, where the rows of zeros have the largest scale."""
        largest = max(int(self.codes.max(initial=0)), LEAST_CODE)
        return replace(self, codes=np.where(self.codes == 0, np.uint8(largest), self.codes))


def scale_factors() -> tuple[np.ndarray, np.ndarray]:
    """Return the two factors, [1, 16] and [16, 1], whose product is the scale of each code, relative to the octave's."""
    fine = np.exp2(np.arange(STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE).astype(np.float32)[None]
    coarse = np.exp2(np.arange(OCTAVES) - OCTAVES).astype(np.float32)[:, None]
    coarse[0] = 0.0
    return fine, coarse


def pack_matrix(matrix: np.ndarray, bits: int) -> PackedRows:
    """Pack a matrix by row; the levels are rounded with the scales as they are stored.

    Time: the passes of `fit_scales` and two more. Memory: a chunk of rows, and two numbers for each row; the bytes of a
    long matrix are in a map.
    """
    codes, octave = _encode_scales(_fit_scales(matrix, bits))
    packed = PackedRows(np.zeros((0, 0)), codes, octave, bits, matrix.shape[1])
    stored_scales = np.broadcast_to(packed.scales(), (len(matrix), 1))

    def pack(rows: slice) -> np.ndarray:
        return pack_levels(find_levels(matrix[rows], stored_scales[rows], bits), bits)

    dtype, width = (np.int8, matrix.shape[1]) if bits >= 7 else (np.uint8, count_row_bytes(matrix.shape[1], bits))
    rows = convert_rows(matrix, np.dtype(dtype), width, pack)
    return PackedRows(rows, codes, octave, bits, matrix.shape[1])


def _fit_scales(matrix: np.ndarray, bits: int) -> np.ndarray:
    """Return the scales [N, 1], or one [1, 1] if all rows share it."""
    if has_one_scale(matrix.shape[1], bits):
        largest = max((np.abs(rows).max(initial=0.0) for rows in iterate_rows(matrix)), default=0.0)
        return np.asarray(fit_scales(np.full((1, 1), largest, np.float32), bits))
    return np.concatenate([np.zeros((0, 1), np.float32), *(fit_scales(rows, bits) for rows in iterate_rows(matrix))])


def _encode_scales(scales: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the codes of scales [N, 1] on the grid, and the octave; a scale 0 has the code 0."""
    nonzero = scales > 0
    steps = np.rint(STEPS_PER_OCTAVE * np.log2(np.where(nonzero, scales, 1.0))).astype(np.int64)
    octave = int(steps[nonzero].max() // STEPS_PER_OCTAVE) + 1 if nonzero.any() else 0
    codes = np.maximum(steps - STEPS_PER_OCTAVE * octave + CODES, LEAST_CODE)
    return np.where(nonzero, codes, 0).astype(np.uint8), octave


def pack_levels(levels: np.ndarray, bits: int) -> np.ndarray:
    """Pack levels [N, D] into the bytes of rows.

    7 and 8 bits: int8. 4 bits: the first half of a row in the low bits, the second in the high bits, the level plus 8. 2
    bits: four neighbors in a byte, the first lowest, the level plus 1.5. 3 bits: the two low bits of the level plus 3.5 in
    such bytes, followed by the high bits, eight neighbors in a byte.
    """
    if bits >= 7:
        return levels.astype(np.int8)
    numbers = (levels + (INT4_ZERO if bits == 4 else LEVELS[bits])).astype(np.uint8)
    if bits == 4:
        half = -(-numbers.shape[1] // 2)
        padded = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)), constant_values=INT4_ZERO)
        return np.asarray(padded[:, :half] | (padded[:, half:] << 4))
    planes = [_pack_neighbors(numbers & 3, 2)]
    if bits == 3:
        planes.append(_pack_neighbors(numbers >> 2, 1))
    return np.concatenate(planes, axis=1)


def _pack_neighbors(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Pack numbers [N, D] of `bits` bits into bytes [N, ceil(D · bits / 8)], the first number lowest."""
    count = 8 // bits
    padded = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % count)))
    columns = [padded[:, place::count] << np.uint8(place * bits) for place in range(count)]
    return np.asarray(np.bitwise_or.reduce(columns))
