import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.report.scales import linear_scale, logarithmic_scale

POSITIVE = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=8)
ANY = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 6)), min_size=1, max_size=8)


@given(POSITIVE)
def test_a_logarithmic_axis_holds_its_values_in_order_and_has_marks(values: list[float]) -> None:
    scale = logarithmic_scale(values, 10.0, 300.0)
    places = [scale(value) for value in sorted(values)]
    assert all(10.0 <= place <= 300.0 for place in places)
    assert places == sorted(places)
    marks = scale.marks()
    assert 1 <= len(marks) <= 20
    assert all(10.0 - 1 <= scale(mark) <= 300.0 + 1 for mark in marks)


@given(ANY)
def test_a_linear_axis_holds_its_values_in_order_and_has_marks(values: list[float]) -> None:
    scale = linear_scale(values, 200.0, 20.0)  # upwards
    places = [scale(value) for value in sorted(values)]
    assert all(20.0 <= place <= 200.0 for place in places)
    assert places == sorted(places, reverse=True)
    marks = scale.marks()
    assert 1 <= len(marks) <= 7
    assert all(math.isfinite(scale(mark)) for mark in marks)


def test_equal_ratios_are_equally_far_apart() -> None:
    scale = logarithmic_scale([1.0, 8.0], 0.0, 1.0)
    assert scale(4.0) - scale(2.0) == pytest.approx(scale(8.0) - scale(4.0))
