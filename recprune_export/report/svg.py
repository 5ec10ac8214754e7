"""`Drawing`: a static SVG picture with title and description; its colors come from the style sheet of the page."""

from xml.etree import ElementTree

from markupsafe import Markup

WIDTH = 400.0  # the width of every picture, in SVG units, about the pixels of a phone


class Drawing:
    """An SVG picture; shapes are painted in the order of the calls; `kind` is a class of the style sheet.

    `name` is the prefix of the ids and must be unique on the page.
    """

    def __init__(self, name: str, title: str, description: str, height: float) -> None:
        labels = f"{name}-title {name}-text"
        self._root = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {WIDTH:g} {_short(height)}", "role": "img", "aria-labelledby": labels}
        )
        ElementTree.SubElement(self._root, "title", id=f"{name}-title").text = title
        ElementTree.SubElement(self._root, "desc", id=f"{name}-text").text = description

    def text(self, x: float, y: float, words: str, kind: str = "label", anchor: str = "start") -> None:
        """Write `words` with their baseline at `y`."""
        self._add("text", kind, x=x, y=y, **({} if anchor == "start" else {"text-anchor": anchor})).text = words

    def mark(self, x: float, y: float, words: str) -> None:
        """Write `words` centered at `x`, shifted if they would cross an edge."""
        half = 3.6 * len(words)
        self.text(min(max(x, half), WIDTH - half), y, words, "mark", "middle")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line."""
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a rectangle, at least one unit wide, so that it stays visible."""
        self._add("rect", kind, x=x, y=y, width=max(width, 1.0), height=height, rx=min(2.0, height / 2))

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a filled circle."""
        self._add("circle", kind, cx=x, cy=y, r=radius)

    def diamond(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a square that stands on a corner."""
        corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
        self._add("polygon", kind, points=" ".join(f"{_short(a)},{_short(b)}" for a, b in corners))

    def square(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a square."""
        self._add("rect", kind, x=x - radius, y=y - radius, width=2 * radius, height=2 * radius)

    def triangle(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a triangle that points upwards."""
        corners = ((x, y - radius), (x + radius, y + 0.8 * radius), (x - radius, y + 0.8 * radius))
        self._add("polygon", kind, points=" ".join(f"{_short(a)},{_short(b)}" for a, b in corners))

    def path(self, points: list[tuple[float, float]], kind: str) -> None:
        """Draw a polyline through points."""
        self._add("polyline", kind, points=" ".join(f"{_short(a)},{_short(b)}" for a, b in points))

    def markup(self) -> Markup:
        """Return the picture as HTML."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode", short_empty_elements=True))

    def _add(self, tag: str, kind: str, **geometry: float | str) -> ElementTree.Element:
        attributes = {name: value if isinstance(value, str) else _short(value) for name, value in geometry.items()}
        return ElementTree.SubElement(self._root, tag, {"class": kind, **attributes})


def shorten(name: str, most: int) -> str:
    """Return the last `most` characters of a long name, with an ellipsis; the end is more informative than the beginning.

    >>> shorten("embeddings.tables.field0_user.weight:1", 20)
    '…ield0_user.weight:1'
    """
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
