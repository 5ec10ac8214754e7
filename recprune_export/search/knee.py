"""`knee`: find the point after which a curve of quality over sparsity falls steeply."""

from collections.abc import Sequence


def knee(compression: Sequence[float], quality: Sequence[float]) -> int | None:
    """Return the position of the point farthest above the straight line from the first to the last one.

    Both are scaled to [0, 1]; points are in the order of increasing compression. None if the curve never lies above (Kneedle: Satopää et
    al. 2011, section 3, without its smoothing).

    >>> knee([0.3, 0.5, 0.7, 0.9, 0.95], [0.0, 0.0, -0.0002, -0.002, -0.009])
    3
    """
    if len(compression) < 3:
        return None
    x = _scaled(compression)
    y = _scaled(quality)
    heights = [y_i - (y[0] + (y[-1] - y[0]) * x_i) for x_i, y_i in zip(x, y, strict=True)]
    best = max(range(len(heights)), key=heights.__getitem__)
    return best if heights[best] > 1e-9 else None


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]
