"""Bits of weights: names, bytes, and the rounding of rows."""

import numpy as np
import pytest
import torch

from recprune_export.stored_bits import (
    LEVELS,
    TABLE_BITS,
    StoredBits,
    count_weight_bytes,
    effective_bits,
    find_levels,
    fit_scales,
    round_rows,
)

SMALL = (8, 4, 3, 2)


def rows(dimensions: int, count: int = 300) -> np.ndarray:
    """Rows of very different sizes, two of zeros."""
    rng = np.random.default_rng(dimensions)
    values = (rng.normal(size=(count, dimensions)) * np.exp(rng.normal(size=(count, 1)))).astype(np.float32)
    values[[3, 7]] = 0.0
    return values


@pytest.mark.parametrize("bits", SMALL)
@pytest.mark.parametrize("dimensions", [1, 5, 16])
def test_rounded_rows_are_rounded_to_themselves(bits: int, dimensions: int) -> None:
    rounded = round_rows(rows(dimensions), fit_scales(rows(dimensions), bits), bits)
    again = fit_scales(rounded, bits)
    np.testing.assert_array_equal(round_rows(rounded, again, bits), rounded)
    assert not rounded[[3, 7]].any()
    assert not again[[3, 7]].any() or (dimensions, bits) == (1, 8)  # where all rows have one scale


@pytest.mark.parametrize("bits", SMALL)
def test_torch_rounds_as_numpy(bits: int) -> None:
    values = rows(8)
    scales = fit_scales(torch.from_numpy(values), bits, torch)
    np.testing.assert_array_equal(scales.numpy(), fit_scales(values, bits))
    rounded = round_rows(torch.from_numpy(values), scales, bits, torch)
    np.testing.assert_array_equal(rounded.numpy(), round_rows(values, fit_scales(values, bits), bits))


@pytest.mark.parametrize("bits", SMALL)
def test_levels_are_a_grid_around_zero(bits: int) -> None:
    values = rows(8)
    levels = find_levels(values, fit_scales(values, bits), bits)
    assert np.abs(levels).max() <= LEVELS[bits]
    assert not ((levels - LEVELS[bits]) % 1).any()
    assert len(np.unique(levels)) <= 2**bits


def test_more_bits_have_less_error_and_a_fitted_scale_less_than_the_largest_number() -> None:
    values = rows(16)
    errors = {
        bits: float(np.square(round_rows(values, fit_scales(values, bits), bits) - values).sum()) for bits in SMALL
    }
    assert errors[8] < errors[4] / 50 < errors[3] / 100 < errors[2] / 200
    for bits in (4, 3, 2):
        largest = np.abs(values).max(axis=1, keepdims=True) / LEVELS[bits]
        assert errors[bits] < 0.95 * np.square(round_rows(values, largest, bits) - values).sum()


@pytest.mark.parametrize("is_table", [True, False])
@pytest.mark.parametrize("dimensions", range(1, 34))
def test_fewer_bits_never_take_more_bytes(dimensions: int, is_table: bool) -> None:
    shape = (700, dimensions) if is_table else (dimensions, 700)
    allowed = TABLE_BITS if is_table else (32, 8, 4)
    sizes = [count_weight_bytes(shape, bits, is_table=is_table) for bits in allowed]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 4 * 700 * dimensions
    for bits in allowed:
        chosen = effective_bits(shape, bits, is_table=is_table)
        assert chosen >= bits
        assert count_weight_bytes(shape, chosen, is_table=is_table) == count_weight_bytes(
            shape, bits, is_table=is_table
        )


def test_a_weight_that_is_not_listed_stays_and_wrong_bits_are_refused() -> None:
    bits = StoredBits({"a": 3}, {"w": 8}, other_layers=4)
    assert (bits.get_table("a"), bits.get_table("b"), bits.get_layer("w"), bits.get_layer("v")) == (3, 32, 8, 4)
    assert bits.to_dict() == {"tables": {"a": 3}, "layers": {"w": 8}, "other_layers": 4}
    with pytest.raises(ValueError, match="The table 'a' cannot have 5 bits"):
        StoredBits({"a": 5})
    with pytest.raises(ValueError, match="cannot have 16 bits"):
        StoredBits(layers={"w": 16})
