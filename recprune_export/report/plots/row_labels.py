"""Rows of a plot: the name at the left and the value at the right are on the line of the shape between them."""

import re

from recprune_export.report.svg import WIDTH, Drawing, shorten

LEFT, RIGHT = 142.0, WIDTH - 86.0  # of the axis, between names and values
ROW = 36.0  # height, with room for a name of two lines
LINE = 17  # characters of a line of a name
VALUE_LINE = 7.5  # from the middle of a row to that of each of two lines
_BASELINE = 4.5  # below the middle of a line of text
_BREAK = re.compile(r"(?<=[ ._/:,-])")


def draw_row_label(drawing: Drawing, middle: float, name: str, *, strong: bool = False) -> None:
    """Write a name at the left edge, centered on the line at `middle`, in two lines if it is long."""
    kind = "label strong-label" if strong else "label"
    lines = split_name(name)
    for number, line in enumerate(lines):
        drawing.text(0, middle + _BASELINE + VALUE_LINE * (2 * number - len(lines) + 1), line, kind)


def draw_row_value(drawing: Drawing, middle: float, value: str) -> None:
    """Write a value at the right edge, on the line at `middle`."""
    drawing.text(WIDTH, middle + _BASELINE, value, "value", "end")


def split_name(name: str) -> list[str]:
    """Return a name in one line or two, divided after a space or else a sign; the beginning of a long one is left out.

    >>> split_name("dense PyTorch"), split_name("model.raw.onnx: latency")
    (['dense PyTorch'], ['model.raw.onnx:', 'latency'])
    >>> split_name("encoder.layers.transformer.blocks.0.attention.weight")
    ['…former.blocks.0.', 'attention.weight']
    """
    if len(name) <= LINE:
        return [name]
    ends = [match.start() for match in _BREAK.finditer(name) if len(name) - LINE <= match.start() < len(name)]
    after_space = [end for end in ends if name[end - 1] == " "]
    end = min(after_space or ends, default=len(name) - LINE)
    return [shorten(name[:end].rstrip(), LINE), name[end:]]
