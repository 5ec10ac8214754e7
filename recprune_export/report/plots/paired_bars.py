"""Plot of one quantity of two bundles: a bar of A over a bar of B in each row, all on the same scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recprune_export.report.plots.row_labels import LEFT, RIGHT, ROW, VALUE_LINE, draw_row_label, draw_row_value
from recprune_export.report.svg import Drawing

LEGEND = 26.0
THICKNESS = 9.0


@dataclass(frozen=True)
class BarPair:
    """The values of A and of B, None where one has none; `whole`: the value of the dense model, which is drawn as a track."""

    name: str
    a: float | None
    b: float | None
    whole: float | None = None


def draw_paired_bars(name: str, title: str, pairs: Sequence[BarPair], form: Callable[[float], str]) -> Markup:
    """Draw a row for each pair, with the values written by `form`."""

    def write(value: float | None) -> str:
        return "–" if value is None else form(value)

    description = "; ".join(f"{pair.name}: A {write(pair.a)}, B {write(pair.b)}" for pair in pairs)
    drawing = Drawing(name, title, description, LEGEND + ROW * len(pairs) + 4)
    largest = max((v for pair in pairs for v in (pair.a, pair.b, pair.whole) if v is not None), default=0.0)
    unit = (RIGHT - LEFT) / (largest or 1.0)
    for number, (side, kind) in enumerate((("A", "plain"), ("B", "strong"))):
        drawing.bar(LEFT + 48 * number, 6, 12, THICKNESS, kind)
        drawing.text(LEFT + 18 + 48 * number, 15, side, "label")
    for number, pair in enumerate(pairs):
        middle = LEGEND + ROW * (number + 0.5)
        draw_row_label(drawing, middle, pair.name)
        for value, kind, line in ((pair.a, "plain", middle - VALUE_LINE), (pair.b, "strong", middle + VALUE_LINE)):
            draw_row_value(drawing, line, write(value))
            if pair.whole is not None and value is not None:
                drawing.bar(LEFT, line - THICKNESS / 2, unit * pair.whole, THICKNESS, "track")
            if value:
                drawing.bar(LEFT, line - THICKNESS / 2, unit * value, THICKNESS, kind)
    return drawing.markup()
