import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.pruning.allocation import knapsack
from recprune_export.pruning.allocation.knapsack import choose_options

options = st.lists(st.tuples(st.integers(0, 20), st.floats(0.0, 10.0)), min_size=1, max_size=4)
Item = tuple[np.ndarray, np.ndarray]


def as_items(drawn: list[list[tuple[int, float]]]) -> list[Item]:
    return [(np.array([size for size, _ in item]), np.array([loss for _, loss in item])) for item in drawn]


@given(st.lists(options, min_size=1, max_size=4), st.integers(0, 60))
def test_the_choice_is_the_best_of_all_choices(drawn: list[list[tuple[int, float]]], budget: int) -> None:
    choice = choose_options(as_items(drawn), budget)
    possible = [
        (sum(loss for _, loss in combination), sum(size for size, _ in combination))
        for combination in itertools.product(*drawn)
        if sum(size for size, _ in combination) <= budget
    ]
    assert (choice is None) == (not possible)
    if choice is not None:
        chosen = [item[option] for item, option in zip(drawn, choice.options, strict=True)]
        assert choice.exact
        assert choice.bytes == sum(size for size, _ in chosen) <= budget
        assert choice.loss == pytest.approx(min(possible)[0])


def test_a_long_frontier_is_thinned_out_and_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items = [(rng.integers(1, 1000, 8), rng.random(8)) for _ in range(10)]
    exact = choose_options(items, 3000)
    monkeypatch.setattr(knapsack, "MAX_FRONTIER", 16)
    thinned = choose_options(items, 3000)
    assert exact is not None
    assert thinned is not None
    assert exact.exact
    assert not thinned.exact
    assert thinned.bytes <= 3000
    assert exact.loss <= thinned.loss <= exact.loss + 0.5
