"""The population stability index as a distance, and what of it is chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recprune_export.data.distribution.stability_index import MAJOR, psi, psi_interval, psi_null_quantile
from recprune_export.evidence import Verdict, judge_at_most

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


@pytest.mark.parametrize("rows", [200, 1000, 5000])
def test_verdicts_at_the_limit_err_at_most_in_the_stated_share(rows: int) -> None:
    """The true index of 12 cells is the limit, so that each verdict but undecided errs."""
    rng, trials = np.random.default_rng(rows), 250
    before, direction = rng.dirichlet(np.full(12, 5.0)), rng.normal(size=12)
    steps = [
        after / after.sum() for after in (before * np.exp(size * direction) for size in np.linspace(0.3, 0.8, 2000))
    ]
    indices = np.array([((after - before) * np.log(after / before)).sum() for after in steps])
    place = int(np.abs(indices - MAJOR).argmin())
    verdicts = [
        judge_at_most(
            psi_interval(rng.multinomial(4000, before), rng.multinomial(rows, steps[place])), float(indices[place])
        )
        for _ in range(trials)
    ]
    noise = 3 * (0.025 * 0.975 / trials) ** 0.5
    assert verdicts.count(Verdict.HOLDS) / trials <= 0.025 + noise
    assert verdicts.count(Verdict.FAILS) / trials <= 0.025 + noise


@pytest.mark.parametrize("cells", [3, 10, 30])
def test_few_rows_that_agree_better_than_chance_show_nothing(cells: int) -> None:
    index = psi_interval(np.full(cells, 100), np.full(cells, 2))
    assert index.low == 0.0
    assert judge_at_most(index, MAJOR) is Verdict.UNDECIDED


def test_without_a_shift_many_rows_hold_and_few_may_not_tell() -> None:
    counts = np.full(20, 100)
    many = psi_interval(counts, counts + 1)
    assert (many.estimate, many.low) == (0.0, 0.0)
    assert judge_at_most(many, MAJOR) is Verdict.HOLDS
    few = psi_interval(counts, np.random.default_rng(0).multinomial(30, np.full(20, 0.05)))
    assert judge_at_most(few, MAJOR) is Verdict.UNDECIDED
