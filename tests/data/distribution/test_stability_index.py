"""The population stability index as a distance, and what of it is chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recprune_export.data.distribution.stability_index import psi, psi_null_quantile

counts = arrays(np.int64, 12, elements=st.integers(0, 10_000))


@given(counts, counts)
def test_it_is_symmetric_and_never_negative(one: np.ndarray, other: np.ndarray) -> None:
    assert psi(one, other) == pytest.approx(psi(other, one), abs=1e-12)
    assert psi(one, other) >= 0.0
    assert psi(one, one) == 0.0


@given(counts, st.permutations(range(12)))
def test_the_order_of_the_cells_does_not_matter(one: np.ndarray, order: list[int]) -> None:
    other = one[::-1]
    assert psi(one[order], other[order]) == pytest.approx(psi(one, other), abs=1e-12)


def test_it_is_what_the_definition_says_for_many_rows() -> None:
    one, other = np.array([0.1, 0.2, 0.7]), np.array([0.3, 0.3, 0.4])
    expected = sum((o - e) * np.log(o / e) for e, o in zip(one, other, strict=True))
    assert psi(one * 1e9, other * 1e9) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "cells"), [(2000, 500, 20), (300, 300, 3), (5000, 50_000, 29)])
def test_chance_stays_below_its_limit_as_often_as_it_says(n: int, m: int, cells: int) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(cells, 5.0))
    draws = [(rng.multinomial(n, shares), rng.multinomial(m, shares)) for _ in range(600)]
    above = np.mean([psi(one, other) > psi_null_quantile(one, other) for one, other in draws])
    assert 0.02 < above < 0.09


def test_nothing_to_compare_is_no_drift() -> None:
    empty = np.zeros(5, dtype=np.int64)
    assert psi(empty, empty) == 0.0 == psi_null_quantile(empty, empty)
    assert psi(np.array([7]), np.array([3])) == 0.0 == psi_null_quantile(np.array([7]), np.array([3]))
