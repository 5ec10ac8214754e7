"""Tiles that are found in the zeros of a matrix."""

import numpy as np
import pytest

from recprune_export.onnx.tiles import Tiles, find_tiles
from tests.onnx.graphs import floats


def tiled(inputs: int, sizes: list[int], k: int, seed: int = 0) -> np.ndarray:
    """A matrix [inputs, outputs] whose outputs, in random order, read k inputs by groups of these sizes."""
    rng = np.random.default_rng(seed)
    mask = np.concatenate(
        [
            np.repeat(np.isin(np.arange(inputs), rng.choice(inputs, k, replace=False))[:, None], size, 1)
            for size in sizes
        ],
        1,
    )
    mask = mask[:, rng.permutation(mask.shape[1])]
    weights = floats(*mask.shape, seed=seed)
    weights[weights == 0] = 1.0
    return np.where(mask, weights, 0.0)


def rebuilt(tiles: Tiles, matrix: np.ndarray) -> np.ndarray:
    """What the tiles compute, as a matrix again."""
    made = np.zeros_like(matrix)
    for units, inputs, weights in zip(tiles.units, tiles.inputs, tiles.weights(matrix), strict=True):
        for unit, row in zip(units, weights, strict=True):
            for number, weight in zip(inputs, row, strict=True):
                if unit >= 0 and number >= 0:
                    made[number, unit] += weight
                else:
                    assert weight == 0.0
    return made


@pytest.mark.parametrize(("sizes", "shape"), [([16, 16, 16], (3, 16)), ([11, 10, 10], (3, 11)), ([32, 16], (3, 16))])
def test_tiles_hold_every_weight_once(sizes: list[int], shape: tuple[int, int]) -> None:
    matrix = tiled(40, sizes, 7)
    tiles = find_tiles(matrix)
    assert tiles is not None
    assert tiles.units.shape == shape
    assert tiles.inputs.shape == (shape[0], 7)
    np.testing.assert_array_equal(rebuilt(tiles, matrix), matrix)
    places = tiles.rows(matrix.shape[1])
    np.testing.assert_array_equal(tiles.units.reshape(-1)[places], np.arange(matrix.shape[1]))


def test_a_zero_by_accident_and_a_dead_unit_do_not_matter() -> None:
    matrix = tiled(40, [16, 16], 12)
    row = np.flatnonzero(matrix[:, 3])[0]
    matrix[row, 3], matrix[:, 5] = 0.0, 0.0
    tiles = find_tiles(matrix)
    assert tiles is not None
    assert tiles.inputs.shape == (2, 12)
    np.testing.assert_array_equal(rebuilt(tiles, matrix), matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        floats(40, 32),  # dense
        np.zeros((40, 32), dtype=np.float32),
        np.where(np.random.default_rng(0).random((40, 32)) < 0.1, floats(40, 32), 0.0),  # element by element
        tiled(40, [16, 16], 35),  # saves little
        tiled(40, [2] * 16, 4),  # too small
    ],
    ids=["dense", "empty", "elements", "nearly dense", "small"],
)
def test_what_has_no_tiles_has_none(matrix: np.ndarray) -> None:
    assert find_tiles(matrix) is None


def test_inputs_that_nobody_reads_make_one_tile() -> None:
    matrix = floats(40, 32)
    matrix[::2] = 0.0
    tiles = find_tiles(matrix)
    assert tiles is not None
    assert tiles.units.shape == (1, 32)
    assert tiles.inputs.tolist() == [list(range(1, 40, 2))]
