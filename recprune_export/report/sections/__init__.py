"""Sections of a report page, one per module: each takes a manifest and returns a `Section`, or None without data."""

__all__ = [
    "calling",
    "environment",
    "frozen",
    "latency",
    "proof",
    "quality",
    "quantization",
    "size",
    "storage",
    "tradeoff",
    "widths",
]
