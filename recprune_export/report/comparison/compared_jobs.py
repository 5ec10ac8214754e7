"""Section on the jobs that made two bundles: the options, inputs and versions that differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.numbers import TO
from recprune_export.report.page import PageTable, Section

# The entries of `settings` that are not options: the inputs of the job, and values derived from them.
NOT_OPTIONS = frozenset({"model", "model_file", "data", "rows", "labels", "metrics", "label_kinds", "command"})
MAX_CHARACTERS = 200
DIGITS_OF_A_HASH = 12


def compare_jobs(pair: BundlePair) -> Section:
    """Return the options, inputs and versions that differ."""
    rows = [*_list_differences(_read_options(pair.a), _read_options(pair.b))]
    rows += _list_differences(_read_inputs(pair.a), _read_inputs(pair.b))
    rows += _list_differences(_read_environment(pair.a), _read_environment(pair.b))
    if not rows:
        return Section("jobs", "Jobs", ("Options, inputs, versions and machine are the same.",))
    table = PageTable("What differs between the two jobs", ("", *SIDES), tuple(rows), frozenset({0, 1, 2}))
    return Section("jobs", "Jobs", tables=(table,))


def list_different_options(pair: BundlePair) -> tuple[str, ...]:
    """Return the names of the options whose values differ."""
    return tuple(name for name, *_ in _list_differences(_read_options(pair.a), _read_options(pair.b)))


def _list_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys((*a, *b)):
        if a.get(name) != b.get(name):
            yield name, _say(a.get(name)), _say(b.get(name))


def _read_options(manifest: Manifest) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in manifest.settings.items() if name not in NOT_OPTIONS}


def _read_inputs(manifest: Manifest) -> dict[str, Any]:
    provenance = manifest.provenance or {}
    inputs: dict[str, Any] = {"model": manifest.settings.get("model"), "rows": manifest.settings.get("data")}
    for source, label in (("model", "SHA-256 of the model"), ("data", "SHA-256 of the rows")):
        if provenance.get(source):
            inputs[label] = provenance[source]["sha256"][:DIGITS_OF_A_HASH]
    return {**inputs, "labels": manifest.settings.get("labels"), "metrics": manifest.settings.get("metrics")}


def _read_environment(manifest: Manifest) -> dict[str, Any]:
    environment = dict(manifest.environment)
    packages = environment.pop("packages", {})
    return {**environment, **packages}


def _say(value: object) -> str:
    """Return the value of an option in words.

    >>> _say(None), _say(True), _say([1, 256]), _say({"user": 0.1}), _say(0.7)
    ('–', 'yes', '1, 256', 'user: 0.1', '0.7')
    """
    if value is None or value in ([], {}, ""):
        return TO
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {_say(each)}" for key, each in value.items())
    else:
        text = ", ".join(map(_say, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
