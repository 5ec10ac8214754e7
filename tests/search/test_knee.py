import pytest

from recprune_export.search.knee import knee


def test_the_knee_of_a_bend_is_the_bend() -> None:
    assert knee([0.0, 0.5, 0.8, 0.9], [0.0, 0.0, 0.0, -1.0]) == 2


@pytest.mark.parametrize("quality", [[0.0, -1.0, -2.0], [0.0, 0.0, 0.0], [0.0, -2.0, -2.1]])
def test_a_line_or_a_curve_below_it_has_none(quality: list[float]) -> None:
    assert knee([0.0, 0.5, 1.0], quality) is None


def test_two_points_have_none() -> None:
    assert knee([0.0, 1.0], [0.0, -1.0]) is None
