"""Contrast by the formula of WCAG 2.2, in each theme, and no colour that a theme does not set."""

import re

import pytest

from recprune_export.report.page import read_style_sheet

TEXT = ("ink", "muted", "accent", "pass", "fail", "undecided")
SHAPES = ("accent", "plain", "edge", "own", "pass", "fail", "undecided", "ink")
GROUNDS = ("page", "raised")


def themes() -> dict[str, dict[str, str]]:
    found = {}
    for name, start in (
        ("light", ""),
        ("dark", r"@media \(prefers-color-scheme: dark\) \{\s*"),
        ("print", r"@media print \{\s*"),
    ):
        block = re.search(start + r":root \{(.*?)\}", read_style_sheet(), re.DOTALL)
        assert block is not None
        found[name] = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block[1]))
    return found


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula_gives_what_the_standard_says() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_text_and_shapes_stand_out(theme: str, ground: str) -> None:
    colours = themes()[theme]
    for name in TEXT:
        assert contrast(colours[name], colours[ground]) >= 4.5, name
    for name in SHAPES:
        assert contrast(colours[name], colours[ground]) >= 3.0, name


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_what_is_filled_stands_out_from_its_track(theme: str) -> None:
    colours = themes()[theme]
    assert contrast(colours["accent"], colours["track"]) >= 3.0


def test_every_theme_sets_every_colour_that_is_used() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", read_style_sheet()))
    for name, colours in themes().items():
        assert used == set(colours), name


def test_colours_are_named_and_set_nowhere_else() -> None:
    rules = re.sub(r":root \{.*?\}", "", read_style_sheet(), flags=re.DOTALL)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", rules)
