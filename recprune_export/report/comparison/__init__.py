"""Sections of a page on two bundles, one per module, and the conditions for a comparison."""

__all__ = [
    "bundle_pair",
    "compared_bits",
    "compared_jobs",
    "compared_latency",
    "compared_quality",
    "compared_size",
    "compared_widths",
    "pair_figures",
]
