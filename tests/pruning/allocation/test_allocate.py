import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.pruning.allocation.allocate import ParameterLimit, compute_convex_envelope

losses = st.lists(st.floats(0.0, 10.0), min_size=2, max_size=12).map(lambda v: sorted(v, reverse=True))


@given(losses)
def test_the_hull_is_below_convex_and_ends_where_the_curve_ends(values: list[float]) -> None:
    curve = compute_convex_envelope(values)
    assert all(c <= v + 1e-9 for c, v in zip(curve, values, strict=True))
    assert (curve[0], curve[-1]) == pytest.approx((values[0], values[-1]))
    steps = [a - b for a, b in itertools.pairwise(curve)]
    assert all(first >= second - 1e-6 for first, second in itertools.pairwise(steps))


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e6))
def test_nearer_is_by_ratio(one: float, other: float) -> None:
    limit = ParameterLimit(target=1000.0, maximum=1500.0)
    assert limit.is_closer(1000.0, other) or other == 1000.0
    assert not (limit.is_closer(one, other) and limit.is_closer(other, one))
