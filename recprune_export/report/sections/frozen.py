"""Section on frozen channels and the reasons."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_count
from recprune_export.report.page import PageTable, Section, list_markup

_SOURCE = re.compile(r'"(.+)", line (\d+)')
MAX_NAMES = 4  # the number of tensors, and of lines of code, named for one reason
MAX_REASONS = 60


def frozen_section(manifest: Manifest) -> Section | None:
    """Return the reasons, most channels first, each once, with its tensors and the lines of code that cause it."""
    if "frozen" not in manifest.plan:
        return None
    by_reason: dict[str, list[Mapping[str, Any]]] = {}
    for axis in manifest.plan["frozen"]:
        by_reason.setdefault(axis["reason"], []).append(axis)
    if not by_reason:
        return Section(
            "frozen",
            "Frozen channels and reasons",
            ("No channel is frozen: every channel of the model could be removed.",),
            gist="none",
            is_open=False,
        )
    ordered = sorted(by_reason.items(), key=lambda item: -sum(axis["count"] for axis in item[1]))
    rows = tuple(
        (
            reason,
            format_count(sum(axis["count"] for axis in axes)),
            list_markup(tuple(f"{axis['tensor']}, axis {axis['axis']}" for axis in axes), MAX_NAMES),
            list_markup(_list_sources(axes), MAX_NAMES),
        )
        for reason, axes in ordered[:MAX_REASONS]
    )
    channels = sum(axis["count"] for axes in by_reason.values() for axis in axes)
    note = f", the first {MAX_REASONS} of {len(ordered):,} reasons; all are in manifest.json"
    caption = f"Frozen channels{note if len(ordered) > MAX_REASONS else ''}"
    return Section(
        "frozen",
        "Frozen channels and reasons",
        ("These channels are kept at every sparsity: only channels that are provably removable are removed.",),
        tables=(PageTable(caption, ("reason", "channels", "of", "caused in"), rows, frozenset({0, 2, 3})),),
        gist=f"{format_count(channels)} {'channel' if channels == 1 else 'channels'}",
        is_open=False,
    )


def _list_sources(axes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the lines of code that cause a reason, each once."""
    return tuple(dict.fromkeys(_shorten_source(axis["source"]) for axis in axes if axis.get("source")))


def _shorten_source(source: str) -> str:
    """Shorten the path of a line of code to its last two components.

    >>> _shorten_source('"/home/me/shop/models/dlrm.py", line 42')
    'models/dlrm.py, line 42'
    """
    match = _SOURCE.fullmatch(source)
    return f"{'/'.join(PurePath(match[1]).parts[-2:])}, line {match[2]}" if match else source
