"""Section on the widths of two bundles, by group."""

from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.numbers import TO, format_count
from recprune_export.report.page import PageFigure, PageTable, Section, name_markup
from recprune_export.report.plots.paired_bars import BarPair, draw_paired_bars
from recprune_export.report.sections.widths import KINDS, MAX_BARS, MAX_ROWS, list_widths

EXPLANATION = "The pale track is the width of the dense model. A group that one of the two lacks has no bar there."


def compare_widths(pair: BundlePair) -> Section | None:
    """Return a plot and a table for each kind of group; None if neither bundle has groups."""
    sides = [list_widths(manifest.plan) for manifest in (pair.a, pair.b)]
    kinds = dict.fromkeys(kind for side in sides for kind in side)
    if not kinds:
        return None
    figures = []
    for kind in kinds:
        a, b = ({width.group: width for width in side.get(kind, ())} for side in sides)
        bars = [
            BarPair(
                group,
                a[group].after if group in a else None,
                b[group].after if group in b else None,
                (a.get(group) or b[group]).before,
            )
            for group in dict.fromkeys((*a, *b))
        ]
        figures.append(_figure(kind, bars))
    return Section("widths", "Widths", (EXPLANATION,), tuple(figures))


def _figure(kind: str, bars: list[BarPair]) -> PageFigure:
    title = KINDS.get(kind, kind)
    first = f", the first {MAX_BARS} of {len(bars):,} groups" if len(bars) > MAX_BARS else ""
    rows = tuple((name_markup(bar.name), *map(_format, (bar.whole, bar.a, bar.b))) for bar in bars[:MAX_ROWS])
    listed = f", the first {MAX_ROWS} of {len(bars):,}" if len(bars) > MAX_ROWS else ""
    return PageFigure(
        draw_paired_bars(f"widths-{kind}", title, bars[:MAX_BARS], format_count),
        title + first,
        PageTable(title + listed, ("group", "dense", *SIDES), rows),
    )


def _format(width: float | None) -> str:
    return TO if width is None else format_count(width)
