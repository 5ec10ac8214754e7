"""Plots of a page as static SVG, one kind of plot per module."""
