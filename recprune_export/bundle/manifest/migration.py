"""Migration of manifests from older format versions, one version at a time."""

from collections.abc import Callable, Mapping
from typing import Any

from recprune_export.errors import BundleError

Values = dict[str, Any]


def migrate(values: Mapping[str, Any], version: int) -> Values:
    """Return the values of a manifest in format `version`; values of that version are returned unchanged.

    Raises `BundleError` if they have a newer or an unknown format version.

    >>> sorted(migrate({"format_version": 1, "name": "ctr"}, 2))
    ['encoding', 'format_version', 'license', 'name', 'provenance']
    """
    source_version = values.get("format_version")
    known = isinstance(source_version, int) and not isinstance(source_version, bool)
    if not known or not (source_version == version or source_version in _STEPS):
        raise BundleError(
            f"The bundle has format version {source_version}, but this release reads 1 to {version}: use the release that wrote the bundle."
        )
    result = dict(values)
    while result["format_version"] != version:
        result = _STEPS[result["format_version"]](result)
    return result


def _from_1(values: Values) -> Values:
    """Add the sections that version 1 does not have: encoding, license and provenance."""
    return {**values, "format_version": 2, "encoding": None, "license": None, "provenance": None}


_STEPS: Mapping[int, Callable[[Values], Values]] = {1: _from_1}
