"""Weights in fewer bits, and back. All of it is symmetric: 0.0 is the integer 0, so what was pruned stays pruned."""

import numpy as np

INT8_MAX = 127  # the largest integer of a table in int8; -128 is not used
INT7_MAX = 63  # the largest of a linear layer: 7 bits, see `quantize_by_output`
INT4_MAX = 7  # the largest of a table in int4; -8 is not used
INT4_ZERO = 8  # the nibble that stands for 0
UINT8_MAX = 255  # the largest of an activation, in uint8


def quantize_by_row(table: np.ndarray, largest: int = INT8_MAX) -> tuple[np.ndarray, np.ndarray]:
    """Return integers [N, D] in int8 and a scale for each row, float32 [N, 1].

    No element is off by more than half of its scale.

    >>> integers, scales = quantize_by_row(np.array([[1.0, -0.5], [0.0, 0.0]], dtype=np.float32))
    >>> integers.tolist(), round(float(scales[0, 0]), 6)
    ([[127, -64], [0, 0]], 0.007874)
    """
    return _rounded(table, np.abs(table).max(axis=1, keepdims=True, initial=0.0), largest)


def quantize_by_dimension(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers [N, D] in int8 and a scale for each embedding dimension, float32 [D]."""
    return _rounded(table, np.abs(table).max(axis=0, initial=0.0), INT8_MAX)


def quantize_by_output(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return W [inputs, outputs] as int8 and a scale for each output, float32 [outputs].

    Of the 8 bits 7 are used. CPUs with AVX2 or AVX-512 but without VNNI add pairs of products of uint8 and int8 in 16
    bits; 2 · 255 · 63 fits, 2 · 255 · 127 does not. With 7 bits the sums are exact and the same on every machine.
    """
    return _rounded(matrix, np.abs(matrix).max(axis=0, initial=0.0), INT7_MAX)


def _rounded(values: np.ndarray, sizes: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    scales = np.asarray(sizes, dtype=np.float32) / np.float32(largest)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1.0), scales)
    integers = np.rint(values / scales)
    return np.clip(integers, -largest, largest).astype(np.int8), scales


def pack_halves(integers: np.ndarray) -> np.ndarray:
    """Put integers [N, D] from -8 to 7 into bytes [N, ceil(D / 2)]: the first half of a row low, the second half high."""
    nibbles = _even(integers)
    half = nibbles.shape[1] // 2
    return nibbles[:, :half] | (nibbles[:, half:] << 4)


def pack_neighbors(integers: np.ndarray) -> np.ndarray:
    """Put integers [N, D] from -8 to 7 into bytes [N, ceil(D / 2)], neighbours together, as `GatherBlockQuantized` has it."""
    nibbles = _even(integers)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def _even(integers: np.ndarray) -> np.ndarray:
    nibbles = (integers + INT4_ZERO).astype(np.uint8)
    return np.pad(nibbles, ((0, 0), (0, nibbles.shape[1] % 2)), constant_values=INT4_ZERO)


def choose_activation_range(values: np.ndarray) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of activations in uint8, such that rounding and clipping `values` costs least.

    Tried are shares of the range on both sides of 0: a few far-out values are better clipped than all
    others rounded coarsely (the mean squared error of Choukroun et al. 2019, "Low-bit Quantization of Neural Networks").
    """
    low, high = min(0.0, float(values.min(initial=0.0))), max(0.0, float(values.max(initial=0.0)))
    if high - low < float(np.finfo(np.float32).tiny) * UINT8_MAX:
        return np.float32(1.0), np.uint8(0)
    some = np.random.default_rng(0).permutation(values.reshape(-1))[:_MANY]
    candidates = [
        compute_scale_zero_point(low * one, high * other) for one in (_SHARES if low else (1.0,)) for other in _SHARES
    ]
    return min(candidates, key=lambda pair: _squared_error(some, *pair))


_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_MANY = 100_000  # values of which the errors are seen well enough


def compute_scale_zero_point(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of uint8 from `low` to `high`, which hold 0 between them."""
    scale = np.float32((high - low) / UINT8_MAX)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, UINT8_MAX))


def _squared_error(values: np.ndarray, scale: np.float32, zero: np.uint8) -> float:
    rounded = np.clip(np.rint(values / scale) + int(zero), 0, UINT8_MAX)
    return float(np.square((rounded - int(zero)) * scale - values, dtype=np.float64).mean())
