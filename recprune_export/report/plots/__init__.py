"""Plots of a page as static SVG, one kind of plot per module."""

__all__ = [
    "label_places",
    "loss_curve",
    "paired_bars",
    "pareto_curve",
    "ratios",
    "row_labels",
    "strips",
    "trend",
    "tuning_curve",
    "width_bars",
]
