"""Integers and scales: how far off a number may be, and that a zero stays one."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recprune_export.onnx import count_nonzero_nibbles, mapped_tensors
from recprune_export.quantization.formats import quantize_by_dimension
from recprune_export.quantization.formats.arithmetic import (
    INT4_MAX,
    choose_activation_range,
    compute_row_scales,
    compute_scale_zero_point,
    pack_neighbors,
    round_symmetric,
)
from recprune_export.quantization.formats.packed_rows import pack_levels, pack_matrix
from recprune_export.stored_bits import count_row_bytes, count_scales, find_levels, fit_scales


def quantize_by_row(table: np.ndarray, largest: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Round with the largest number of each row."""
    scales = compute_row_scales(table, largest)
    return round_symmetric(table, scales, largest), scales


SIZES = st.tuples(st.integers(1, 7), st.integers(1, 9))
TABLES = hnp.arrays(np.float32, SIZES, elements=st.floats(-1e6, 1e6, width=32))
ROUNDING = 1 + 1e-6  # of the arithmetic in float32 itself


@given(TABLES, st.sampled_from([127, INT4_MAX]))
def test_a_row_is_off_by_half_of_its_scale_at_most(table: np.ndarray, largest: int) -> None:
    integers, scales = quantize_by_row(table, largest)
    assert integers.dtype == np.int8
    assert scales.shape == (len(table), 1)
    wrong = np.abs(integers * scales.astype(np.float64) - table)
    assert (wrong <= scales / 2 * ROUNDING + np.abs(table) * 2**-22).all()


@given(TABLES)
def test_a_dimension_is_off_by_half_of_its_scale_at_most(table: np.ndarray) -> None:
    integers, scales = quantize_by_dimension(table)
    assert scales.shape == (table.shape[1],)
    wrong = np.abs(integers * scales.astype(np.float64) - table)
    assert (wrong <= scales / 2 * ROUNDING + np.abs(table) * 2**-22).all()


@given(TABLES)
def test_zeros_stay_zeros(table: np.ndarray) -> None:
    table[np.random.default_rng(0).random(table.shape) < 0.5] = 0.0
    for quantise in (quantize_by_row, quantize_by_dimension):
        integers, _ = quantise(table)
        assert not integers[table == 0.0].any()


@given(TABLES)
def test_pairs_of_products_fit_into_16_bits(matrix: np.ndarray) -> None:
    integers = pack_matrix(matrix, 7).rows
    assert 2 * 255 * int(np.abs(integers.astype(int)).max(initial=0)) <= np.iinfo(np.int16).max


@given(hnp.arrays(np.int8, SIZES, elements=st.integers(-7, 7)))
def test_what_is_packed_can_be_taken_apart(integers: np.ndarray) -> None:
    dimensions = integers.shape[1]
    halves, neighbours = pack_levels(integers.astype(np.float32), 4), pack_neighbors(integers)
    low, high = (half.astype(int) - 8 for half in (halves & 15, halves >> 4))
    assert np.array_equal(np.concatenate([low, high], axis=1)[:, :dimensions], integers)
    low, high = (half.astype(int) - 8 for half in (neighbours & 15, neighbours >> 4))
    assert np.array_equal(np.stack([low, high], axis=2).reshape(len(integers), -1)[:, :dimensions], integers)
    assert count_nonzero_nibbles(halves) == count_nonzero_nibbles(neighbours) == np.count_nonzero(integers)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("dimensions", [1, 7, 16])
def test_packed_rows_have_the_bytes_that_are_promised(bits: int, dimensions: int) -> None:
    packed = pack_matrix(np.random.default_rng(0).normal(size=(30, dimensions)).astype(np.float32), bits)
    assert packed.rows.nbytes == 30 * count_row_bytes(dimensions, bits)
    assert packed.codes.nbytes == count_scales(30, dimensions, bits)


@given(TABLES, st.sampled_from([8, 4, 3, 2]))
def test_scales_as_stored_are_those_of_the_reference(table: np.ndarray, bits: int) -> None:
    scales = fit_scales(table, bits)
    stored = np.broadcast_to(pack_matrix(table, bits).scales(), scales.shape)
    far_below = scales < scales.max() * 2.0**-14
    np.testing.assert_array_equal(stored[~far_below], scales[~far_below])
    assert (stored[far_below] <= scales.max() * 2.0**-13).all()
    assert not stored[scales == 0].any()


def test_what_a_relu_gives_has_its_zero_at_the_end() -> None:
    scale, zero = choose_activation_range(np.array([0.0, 1.0, 2.0], dtype=np.float32))
    assert zero == 0
    assert float(scale) == pytest.approx(2 / 255)


def test_far_out_values_are_clipped_for_the_sake_of_all_others() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32) ** 3
    whole = compute_scale_zero_point(float(values.min()), float(values.max()))
    chosen = choose_activation_range(values)
    assert chosen[0] < whole[0]
    assert error(values, *chosen) < error(values, *whole)


def error(values: np.ndarray, scale: np.float32, zero: np.uint8) -> float:
    rounded = np.clip(np.rint(values / scale) + int(zero), 0, 255) - int(zero)
    return float(np.square(rounded * scale - values).mean())


@pytest.mark.parametrize("values", [np.zeros(4, np.float32), np.zeros(0, np.float32)])
def test_nothing_but_zeros_has_a_scale(values: np.ndarray) -> None:
    scale, zero = choose_activation_range(values)
    assert scale > 0
    assert zero == 0


@pytest.mark.parametrize("chunk", [1, 100, 1 << 24])
def test_chunks_of_rows_give_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "CHUNK_BYTES", chunk)
    table = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    for axis, (integers, scales) in ((1, quantize_by_row(table)), (0, quantize_by_dimension(table))):
        expected_scales = (np.abs(table).max(axis=axis, keepdims=True) / np.float32(127)).reshape(scales.shape)
        np.testing.assert_array_equal(scales, expected_scales)
        np.testing.assert_array_equal(integers, np.rint(table / scales).clip(-127, 127))
    nibbles = np.pad(quantize_by_row(table, INT4_MAX)[0] + 8, ((0, 0), (0, 1)), constant_values=8).astype(np.uint8)
    for bits in (8, 4, 3, 2):
        scales = fit_scales(table, bits)
        expected = pack_levels(find_levels(table, scales, bits), bits)
        np.testing.assert_array_equal(pack_matrix(table, bits).rows, expected)
    neighbors = pack_neighbors(quantize_by_row(table, INT4_MAX)[0])
    np.testing.assert_array_equal(neighbors, nibbles[:, ::2] | (nibbles[:, 1::2] << 4))


def test_a_long_column_is_packed_without_a_copy_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "CHUNK_BYTES", 1 << 16)
    column = np.random.default_rng(0).normal(size=(1 << 20, 1)).astype(np.float32)
    tracemalloc.start()
    packed = pack_matrix(column, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < column.nbytes / 2
    assert packed.codes.shape == (1, 1)
    np.testing.assert_array_equal(packed.scales(), fit_scales(column, 8)[:1])
