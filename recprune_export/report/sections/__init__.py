"""Sections of a report page, one per module: each takes a manifest and returns a `Section`, or None without data."""

__all__ = [
    "calling",
    "derived_models",
    "environment",
    "frozen",
    "latency",
    "proof",
    "quality",
    "quantization",
    "rewrites",
    "size",
    "storage",
    "tradeoff",
    "tuning",
    "widths",
]
