"""Quality in addition to the mean: by the frequency of ids in training, and calibration."""

from collections.abc import Callable, Mapping
from typing import Any

from recprune_export.report.numbers import TO, format_count, format_interval, format_signed
from recprune_export.report.page import PageFigure, PageTable
from recprune_export.report.plots.calibration_curve import draw_calibration

CALIBRATION = (
    "A calibrated model lies on the diagonal of the calibration plot: among the rows with a given predicted probability, this "
    "fraction is positive. ECE is the mean distance from the diagonal over bins of equal width."
)
MODELS = {"dense": "before", "pruned": "after"}  # the keys of a change


def make_frequency_table(breakdown: Mapping[str, Any], describe: Callable[[str], str]) -> tuple[PageTable, ...]:
    """Return the table of quality by id frequency; none if the bundle has none."""
    rows = []
    for bucket in breakdown.get("buckets", ()):
        change, metrics = bucket["change"], bucket["metrics"]
        frequency = describe_frequency(bucket["least"], bucket["most"])
        if change is None:
            rows.append((frequency, format_count(bucket["rows"]), "no metric is defined", TO, TO, TO))
            continue
        name = change["metric"]
        dense, pruned = (f"{metrics[model].get(name, change[end]):.4f}" for model, end in MODELS.items())
        difference = (
            f"{format_signed(change['after'] - change['before'])} ({format_interval(change['interval'], '+.4f')})"
        )
        rows.append((frequency, format_count(bucket["rows"]), describe(name), dense, pruned, difference))
    headings = ("training rows with the id", "test rows", "metric", "dense", "pruned", "change (95\u00a0% interval)")
    caption = f"By frequency of the {breakdown.get('by')}"
    return (PageTable(caption, headings, tuple(rows), frozenset({0, 2})),) if rows else ()


def make_calibration_figures(breakdown: Mapping[str, Any]) -> tuple[PageFigure, ...]:
    """Return a plot and a table of calibration for each label that has one."""
    figures = []
    for number, (label, models) in enumerate(breakdown.get("calibration", {}).items()):
        curves = {
            model: [(cell["predicted"], cell["observed"]) for cell in calibration["bins"]]
            for model, calibration in models.items()
        }
        rows = tuple(
            (
                model,
                f"{calibration['predicted']:.4f}",
                f"{calibration['observed']:.4f}",
                TO if calibration["ece"] is None else f"{calibration['ece']:.4f}",
            )
            for model, calibration in models.items()
        )
        table = PageTable(f"Calibration of '{label}'", ("", "mean prediction", "mean label", "ECE"), rows)
        title = f"Mean label over mean prediction of '{label}'"
        figures.append(PageFigure(draw_calibration(f"calibration-{number}", title, curves, "pruned"), title, table))
    return tuple(figures)


def explain_breakdown(breakdown: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentence that explains the plots; none without plots."""
    return (CALIBRATION,) if breakdown.get("calibration") else ()


def describe_frequency(least: int, most: int | None) -> str:
    """Return the bounds of a bucket in words.

    >>> describe_frequency(0, 0), describe_frequency(1, 9), describe_frequency(100, None)
    ('0 (unknown)', '1–9', '100 or more')
    """
    if most == 0:
        return "0 (unknown)"
    return f"{format_count(least)} or more" if most is None else f"{format_count(least)}{TO}{format_count(most)}"
