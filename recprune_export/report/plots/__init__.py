"""Plots of a page as static SVG, one kind of plot per module."""

__all__ = [
    "label_places",
    "loss_curve",
    "pareto_curve",
    "ratios",
    "strips",
    "trend",
    "width_bars",
]
