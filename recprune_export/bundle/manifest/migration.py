"""Manifests of older format versions, brought into the present form step by step."""

from collections.abc import Callable, Mapping
from typing import Any

from recprune_export.errors import BundleError

Values = dict[str, Any]


def migrate(values: Mapping[str, Any], version: int) -> Values:
    """Return the values of a manifest in format `version`; those that are already, unchanged.

    Raises `BundleError` where they are of a newer format, or of one that was never written.

    >>> sorted(migrate({"format_version": 1, "name": "ctr"}, 2))
    ['encoding', 'format_version', 'licence', 'name', 'provenance']
    """
    stated = values.get("format_version")
    known = isinstance(stated, int) and not isinstance(stated, bool)
    if not known or not (stated == version or stated in _STEPS):
        raise BundleError(
            f"The bundle has format version {stated}, this recprune-export reads 1 to {version}: use the release that wrote it."
        )
    result = dict(values)
    while result["format_version"] != version:
        result = _STEPS[result["format_version"]](result)
    return result


def _from_1(values: Values) -> Values:
    """Version 1 did not say where a bundle comes from, nor how raw values are encoded."""
    return {**values, "format_version": 2, "encoding": None, "licence": None, "provenance": None}


_STEPS: Mapping[int, Callable[[Values], Values]] = {1: _from_1}
