"""Integer arithmetic of quantized weights. Weights are symmetric: 0.0 is the integer 0, so pruned weights stay zero."""

from collections.abc import Callable

import numpy as np

from recprune_export.onnx.mapped_tensors import iterate_rows, split_rows, write_map
from recprune_export.stored_bits import LEVELS

INT8_MAX = 127  # the largest integer of a table in int8; -128 is not used
INT4_MAX = 7  # the largest integer of a table in int4; -8 is not used
INT4_ZERO = 8  # the nibble that represents 0
UINT8_MAX = 255  # the largest integer of an activation, in uint8


def compute_row_scales(table: np.ndarray, largest: int) -> np.ndarray:
    """Return a scale for each row, float32 [N, 1], so that its largest number becomes `largest`; 1 for a row of zeros.

    >>> table = np.array([[1.0, -0.5], [0.0, 0.0]], dtype=np.float32)
    >>> scales = compute_row_scales(table, INT8_MAX)
    >>> round_symmetric(table, scales, INT8_MAX).tolist(), round(float(scales[0, 0]), 6)
    ([[127, -64], [0, 0]], 0.007874)
    """
    largest_values = [_largest_values(rows, 1) for rows in iterate_rows(table)]
    return _compute_scales(np.concatenate([np.zeros((0, 1), np.float32), *largest_values]), largest)


def narrow_scales(scales: np.ndarray) -> np.ndarray:
    """Return scales in fp16, or unchanged if one of them is not a normal number of fp16."""
    limits = np.finfo(np.float16)
    fits = bool(((scales >= limits.tiny) & (scales <= limits.max)).all())
    return scales.astype(np.float16) if fits else scales


def quantize_by_dimension(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers [N, D] in int8 and a scale for each embedding dimension, float32 [D].

    Time: two passes over the table. Memory: a chunk of rows; the integers of a long table are in a map.
    """
    return _quantize_symmetric(table, _largest_values(table, 0)[0], INT8_MAX)


def quantize_with_one_scale(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return W [inputs, outputs] as int8 in 7 bits and the one scale of all outputs, float32 []."""
    integers, scales = _quantize_symmetric(matrix, np.abs(matrix).max(initial=0.0, keepdims=True), int(LEVELS[7]))
    return integers, scales.reshape(())


def _largest_values(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the largest absolute values along an axis of a matrix, without a copy of it."""
    highest, lowest = (reduce(axis=axis, keepdims=True, initial=0.0) for reduce in (values.max, values.min))
    return np.maximum(highest, -lowest)


def _quantize_symmetric(values: np.ndarray, largest_values: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    scales = _compute_scales(largest_values, largest)
    return round_symmetric(values, scales, largest), scales


def _compute_scales(largest_values: np.ndarray, largest: int) -> np.ndarray:
    scales = np.asarray(largest_values, dtype=np.float32) / np.float32(largest)
    return np.where(scales < np.finfo(np.float32).tiny, np.float32(1.0), scales)


def round_symmetric(values: np.ndarray, scales: np.ndarray, largest: int) -> np.ndarray:
    """Return the integers of a matrix in int8, from -`largest` to `largest`, with scales that broadcast to it.

    Time: one pass over the matrix. Memory: a chunk of rows; the integers of a long matrix are in a map.
    """
    scales_of_rows = np.broadcast_to(np.asarray(scales, dtype=np.float32), values.shape)

    def round_rows(rows: slice) -> np.ndarray:
        return np.clip(np.rint(values[rows] / scales_of_rows[rows]), -largest, largest).astype(np.int8)

    return convert_rows(values, np.dtype(np.int8), values.shape[1], round_rows)


def convert_rows(
    values: np.ndarray, dtype: "np.dtype[np.generic]", width: int, convert: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Return `convert` of all rows of a matrix, [rows, width], computed chunk after chunk; a long result is in a map."""
    chunks = map(convert, split_rows(len(values), values[:1].nbytes))
    return write_map(dtype, (len(values), width), chunks)


def pack_neighbors(integers: np.ndarray) -> np.ndarray:
    """Pack integers [N, D] from -8 to 7 into bytes [N, ceil(D / 2)], neighbors together, the format of `GatherBlockQuantized`."""

    def pack(rows: slice) -> np.ndarray:
        nibbles = _pad_nibbles(integers[rows])
        return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)

    return convert_rows(integers, np.dtype(np.uint8), -(-integers.shape[1] // 2), pack)


def _pad_nibbles(integers: np.ndarray) -> np.ndarray:
    nibbles = (integers + INT4_ZERO).astype(np.uint8)
    return np.pad(nibbles, ((0, 0), (0, nibbles.shape[1] % 2)), constant_values=INT4_ZERO)


def choose_activation_range(values: np.ndarray) -> tuple[np.float32, np.uint8]:
    """Return the scale and zero point of uint8 activations with the smallest mean squared error on `values`.

    The search covers fractions of the range on both sides of 0: clipping a few outliers costs less than rounding all
    other values coarsely (Choukroun et al. 2019, "Low-bit Quantization of Neural Networks").
    """
    low, high = min(0.0, float(values.min(initial=0.0))), max(0.0, float(values.max(initial=0.0)))
    if high - low < float(np.finfo(np.float32).tiny) * UINT8_MAX:
        return np.float32(1.0), np.uint8(0)
    sample = np.random.default_rng(0).permutation(values.reshape(-1))[:_SAMPLE_SIZE]
    candidates = [
        compute_scale_zero_point(low * low_fraction, high * high_fraction)
        for low_fraction in (_FRACTIONS if low else (1.0,))
        for high_fraction in _FRACTIONS
    ]
    return min(candidates, key=lambda pair: _squared_error(sample, *pair))


_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_SAMPLE_SIZE = 100_000  # values; enough for an estimate of the error


def compute_scale_zero_point(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return the scale and zero point of uint8 for the range from `low` to `high`, which includes 0."""
    scale = np.float32((high - low) / UINT8_MAX)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, UINT8_MAX))


def _squared_error(values: np.ndarray, scale: np.float32, zero: np.uint8) -> float:
    rounded = np.clip(np.rint(values / scale) + int(zero), 0, UINT8_MAX)
    return float(np.square((rounded - int(zero)) * scale - values, dtype=np.float64).mean())
