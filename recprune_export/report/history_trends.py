"""Section of a check page: each measured figure over the checks of a history file."""

from collections.abc import Sequence

from recprune_export.evidence import Verdict
from recprune_export.gate.history import CheckRecord, RecordedFigure
from recprune_export.report.numbers import format_significant
from recprune_export.report.page import PageFigure, PageTable, Section
from recprune_export.report.plots.trend import TrendPoint, draw_trend

# Prefixes of the names of gates whose figures are drawn.
DRAWN = ("latency", "load time", "peak memory", "model size", "artifact size", "quality")
MOST = 60  # checks in a picture
TABLE_ROWS = 12
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_CLASSES = {verdict: verdict.value for verdict in Verdict} | {Verdict.SKIPPED: "plain"}


def draw_history(history: Sequence[CheckRecord]) -> Section | None:
    """Return the section with a picture for each figure of the last check; None without an earlier check."""
    if len(history) < 2:
        return None
    gates = [gate for gate in history[-1].figures if gate.startswith(DRAWN)]
    figures = tuple(
        figure for number, gate in enumerate(gates) if (figure := _draw_figure(number, gate, history)) is not None
    )
    if not figures:
        return None
    explanation = (
        f"{len(history):,} checks of the history file. A dot is NEW, in the color of its verdict; the dashed line is BASE of the same "
        "check. If both change together, the machine has changed, not the model.",
    )
    return Section("history", "Over the checks", explanation, figures)


def _draw_figure(number: int, gate: str, history: Sequence[CheckRecord]) -> PageFigure | None:
    checks = [(record, record.figures[gate]) for record in history if gate in record.figures]
    checks = [(record, figure) for record, figure in checks if figure.unit == checks[-1][1].unit][-MOST:]
    if len(checks) < 2:
        return None
    factor, unit = _choose_unit([figure for _, figure in checks])
    points = [
        TrendPoint(_name_commit(record), figure.base / factor, figure.new / factor, _CLASSES[figure.verdict])
        for record, figure in checks
    ]
    picture = draw_trend(f"history-{number}", f"{gate} over the checks", points, unit)
    rows = tuple(
        (point.label, record.time[:16].replace("T", " "), *(format_significant(v) for v in (point.base, point.new)),
         figure.verdict.text)
        for point, (record, figure) in list(zip(points, checks, strict=True))[: -TABLE_ROWS - 1 : -1]
    )  # fmt: skip
    heading = f" in {unit}" if unit else ""
    table = PageTable(
        f"{gate}{heading}, the newest first",
        ("commit", "time, UTC", "BASE", "NEW", "verdict"),
        rows,
        frozenset({0, 1, 4}),
    )
    return PageFigure(picture, gate, table)


def _choose_unit(figures: Sequence[RecordedFigure]) -> tuple[float, str]:
    """Return the divisor of the values and the unit that they have then."""
    if figures[-1].unit != "bytes":
        return 1.0, figures[-1].unit
    largest = max(max(figure.base, figure.new) for figure in figures)
    return next((factor, unit) for factor, unit in _UNITS if largest >= factor or factor == 1.0)


def _name_commit(record: CheckRecord) -> str:
    return "no commit" if record.commit is None else record.commit[:9]
