"""Pictures put values where they belong, and names as text."""

from itertools import pairwise

import pytest

from recprune_export.report.plots.calibration_curve import draw_calibration
from recprune_export.report.plots.paired_bars import BarPair, draw_paired_bars
from recprune_export.report.plots.ratios import PlottedRatio, draw_ratios
from recprune_export.report.plots.strips import draw_strips
from recprune_export.report.plots.width_bars import GroupWidth, draw_widths
from recprune_export.report.svg import WIDTH
from tests.report.pages import Element, read
from tests.report.samples import HOSTILE

PERCENTS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


def drawn(picture: str) -> Element:
    (svg,) = read(picture).all("svg")
    return svg


def number(element: Element, name: str) -> float:
    return float(element.attributes[name])


def test_a_bar_is_as_long_as_its_width() -> None:
    svg = drawn(draw_widths("w", "Widths", [GroupWidth("a", 64, 16), GroupWidth("b", 32, 32)]))
    bars = svg.all("rect")
    tracks = [number(bar, "width") for bar in bars if bar.attributes["class"] == "track"]
    filled = [number(bar, "width") for bar in bars if bar.attributes["class"] == "strong"]
    assert tracks[0] == pytest.approx(2 * tracks[1], abs=0.2)
    assert filled == pytest.approx([tracks[0] / 4, tracks[1]], abs=0.2)


def test_a_slower_contestant_lies_further_right_and_inner_bars_lie_within_outer_ones() -> None:
    fast = {p: 1.0 + p / 100 for p in PERCENTS}
    svg = drawn(draw_strips("l", "Latency", {"slow": {p: 3 * v for p, v in fast.items()}, "fast": fast}, ("fast",)))
    by_kind = {kind: [b for b in svg.all("rect") if b.attributes["class"] == kind] for kind in ("plain", "strong")}
    for bars in by_kind.values():
        spans = [(number(b, "x"), number(b, "x") + number(b, "width")) for b in bars]
        assert len(spans) == 3
        assert all(o[0] <= i[0] and i[1] <= o[1] + 0.11 for o, i in pairwise(spans))
    assert all(number(s, "x") > number(f, "x") for s, f in zip(by_kind["plain"], by_kind["strong"], strict=True))


def test_what_grew_lies_right_of_zero_and_an_outlier_stays_in_the_picture() -> None:
    ratios = [
        PlottedRatio("more", 0.1, "fail", 0.08, 0.12, 0.05),
        PlottedRatio("less", -0.1, "pass"),
        PlottedRatio("huge", 50.0, "fail"),
    ]
    svg = drawn(draw_ratios("r", "Growth", ratios, "NEW more than BASE"))
    more, less, huge = (number(dot, "cx") for dot in svg.all("circle"))
    (zero,) = (number(line, "x1") for line in svg.all("line") if line.attributes["class"] == "zero")
    assert less < zero < more < huge <= WIDTH
    (limit,) = (number(bar, "x") for bar in svg.all("rect") if bar.attributes["class"] == "limit")
    assert zero < limit < more


def test_names_and_values_lie_on_the_line_of_what_they_name() -> None:
    percents = dict.fromkeys(PERCENTS, 1.0)
    for picture in (
        draw_ratios(
            "r", "Growth", [PlottedRatio("latency, batch 256", 0.1, "fail"), PlottedRatio("size", 0.2, "pass")], ""
        ),
        draw_strips("s", "Latency", {"dense ONNX": percents, "a name of several words": percents}, ()),
        draw_widths("w", "Widths", [GroupWidth("user", 4, 2), GroupWidth("a.long.name.of.a.group", 4, 2)]),
    ):
        svg = drawn(picture)
        shapes = [number(dot, "cy") for dot in svg.all("circle")] or [
            number(bar, "y") + number(bar, "height") / 2 for bar in svg.all("rect")
        ]
        texts = [text for text in svg.all("text") if text.attributes["class"] != "mark"]
        values = [number(text, "y") - 4.5 for text in texts if text.attributes["class"] == "value"]
        assert sorted({round(shape) for shape in shapes}) == pytest.approx(sorted(values), abs=0.6)
        labels = [number(text, "y") - 4.5 for text in texts if text.attributes["class"] != "value"]
        assert all(min(abs(label - shape) for shape in shapes) <= 8 for label in labels)


def test_a_value_of_a_pair_lies_on_the_line_of_its_bar() -> None:
    svg = drawn(
        draw_paired_bars("p", "Bytes", [BarPair("tables", 100.0, 50.0), BarPair("rest", None, 80.0)], "{:g}".format)
    )
    values = [text for text in svg.all("text") if text.attributes["class"] == "value"]
    assert [value.text for value in values] == ["100", "50", "–", "80"]
    legend = 2
    bars = svg.all("rect")[legend:]
    assert [number(bar, "width") for bar in bars] == pytest.approx([172.0, 86.0, 137.6])
    middles = [number(bar, "y") + number(bar, "height") / 2 for bar in bars]
    assert middles == pytest.approx([number(values[place], "y") - 4.5 for place in (0, 1, 3)], abs=0.2)


def test_names_are_text() -> None:
    for picture in (
        draw_widths("w", HOSTILE, [GroupWidth(HOSTILE, 4, 2)]),
        draw_ratios("r", HOSTILE, [PlottedRatio(HOSTILE, 0.1, "pass")], HOSTILE),
        draw_strips("s", HOSTILE, {HOSTILE: dict.fromkeys(PERCENTS, 1.0)}, ()),
    ):
        svg = drawn(picture.replace("\0", ""))
        assert {e.tag for e in svg.walk()} <= {"svg", "title", "desc", "text", "rect", "line", "circle"}
        assert svg.all("title")[0].text == HOSTILE.replace("\0", "")


def test_a_bin_that_predicts_too_much_lies_below_the_diagonal() -> None:
    points = {"dense": [(0.1, 0.1), (0.5, 0.5)], "pruned": [(0.1, 0.1), (0.5, 0.3)]}
    svg = drawn(draw_calibration("c", "Calibration", points, "pruned"))
    (diagonal,) = (line for line in svg.all("line") if line.attributes["class"] == "zero")
    dots = [dot for dot in svg.all("circle") if number(dot, "cy") > 20]
    last = dots[-1]
    start, end = ((number(diagonal, f"x{n}"), number(diagonal, f"y{n}")) for n in (1, 2))
    slope = (end[1] - start[1]) / (end[0] - start[0])
    assert number(last, "cy") > start[1] + slope * (number(last, "cx") - start[0]) + 5
