"""Positions for the labels of points, so that they cover neither each other nor the points."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHARACTER, HEIGHT = 6.4, 11.0  # of a label, in SVG units


@dataclass(frozen=True)
class Box:
    """A rectangle between two corners."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Return whether both boxes have an area in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True)
class LabeledPoint:
    """A point at (`x`, `y`) whose error bar reaches from `top` to `bottom`."""

    text: str
    x: float
    y: float
    top: float
    bottom: float

    @property
    def box(self) -> Box:
        """The area of the shape and the error bar."""
        return Box(self.x - 5, min(self.top, self.y - 5), self.x + 5, max(self.bottom, self.y + 5))


def place_labels(points: Sequence[LabeledPoint], area: Box) -> list[tuple[float, float]]:
    """Return the center and the baseline of each label: above its point, below, farther away, right or left, wherever it covers least.

    One label after the other, in the order given: O(n²).

    >>> points = [LabeledPoint("a", 20, 50, 45, 55), LabeledPoint("b", 24, 52, 47, 57)]
    >>> place_labels(points, Box(0, 0, 100, 100))
    [(20.0, 39.0), (24.0, 70.0)]
    """
    placed: list[Box] = []
    shapes = [point.box for point in points]
    places = []
    for point in points:
        boxes = list(_list_boxes(point))
        costs = [_count_covered(box, [*placed, *shapes], area) for box in boxes]
        best = boxes[costs.index(min(costs))]
        placed.append(best)
        places.append(((best.left + best.right) / 2, best.bottom - 2.0))
    return places


def _list_boxes(point: LabeledPoint) -> Iterator[Box]:
    half, shape = CHARACTER * len(point.text) / 2, point.box
    above, below = shape.top - 4, shape.bottom + 4 + HEIGHT
    for bottom in (above, below, above - HEIGHT - 3, below + HEIGHT + 3):
        yield Box(point.x - half, bottom - HEIGHT, point.x + half, bottom)
    for center in (shape.right + 3 + half, shape.left - 3 - half):
        yield Box(center - half, point.y - HEIGHT / 2, center + half, point.y + HEIGHT / 2)


def _count_covered(box: Box, others: Sequence[Box], area: Box) -> int:
    outside = box.left < area.left or box.right > area.right or box.top < area.top or box.bottom > area.bottom
    return sum(box.overlaps(other) for other in others) + 3 * outside
