from hypothesis import given
from hypothesis import strategies as st

from recprune_export.report.plots.label_places import Box, LabeledPoint, place_labels

AREA = Box(0, 0, 400, 200)


@given(st.lists(st.tuples(st.floats(30, 370), st.floats(40, 160)), min_size=1, max_size=8))
def test_labels_stay_in_the_picture_near_their_points(places: list[tuple[float, float]]) -> None:
    points = [LabeledPoint("0.95", x, y, y - 8, y + 8) for x, y in places]
    for point, (center, baseline) in zip(points, place_labels(points, AREA), strict=True):
        assert AREA.left <= center <= AREA.right
        assert AREA.top <= baseline <= AREA.bottom
        assert abs(center - point.x) < 30
        assert abs(baseline - point.y) < 50


def test_labels_of_points_side_by_side_do_not_cover_each_other() -> None:
    points = [LabeledPoint("0.95", 100 + 9 * n, 100, 92, 108) for n in range(4)]
    places = place_labels(points, AREA)
    for n, (x, y) in enumerate(places):
        assert all(abs(x - other_x) >= 25 or abs(y - other_y) >= 11 for other_x, other_y in places[n + 1 :])
