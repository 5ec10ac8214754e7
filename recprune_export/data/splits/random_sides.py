"""The sides of rows that are split at random: the same for all rows at once as for parts of a stream."""

from collections.abc import Callable

import numpy as np

from recprune_export.data.schema.schema import Split

DrawSides = Callable[[Split, int, int], np.ndarray]  # split, first row, count -> the side of each row, int8 [count]


def draw_sides(split: Split, first_row: int, count: int) -> np.ndarray:
    """Return the sides of `count` rows from `first_row` on, drawn by the seed with the fractions of the split: int8 [count].

    >>> whole = draw_sides(Split(), 0, 100)
    >>> bool((np.concatenate([whole[:30], draw_sides(Split(), 30, 70)]) == whole).all())
    True
    """
    draw = _draw_numbers(split.seed, first_row, count)
    sides: np.ndarray = 2 - (draw >= split.test).astype(np.int8) - (draw >= split.test + split.valid).astype(np.int8)
    return sides


def draw_array_sides(split: Split, first_row: int, count: int) -> np.ndarray:
    """Return the sides of `count` rows of arrays from `first_row` on, drawn by the seed, 80/10/10: int8 [count]."""
    draw = _draw_numbers(split.seed, first_row, count)
    sides: np.ndarray = (draw >= 0.8).astype(np.int8) + (draw >= 0.9).astype(np.int8)
    return sides


def describe_random_sides(split: Split) -> str:
    """Describe the rule by which rows are split."""
    return f"at random with seed {split.seed}"


def _draw_numbers(seed: int, first_row: int, count: int) -> np.ndarray:
    """Return the numbers from 0 to 1 that a generator of `seed` draws for `count` rows from `first_row` on, [count]."""
    generator = np.random.PCG64(seed)
    generator.advance(first_row)
    return np.random.Generator(generator).random(count)
