"""What could not be removed, and why."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_count
from recprune_export.report.page import PageTable, Section, code_markup, list_markup

_SOURCE = re.compile(r'"(.+)", line (\d+)')
TENSORS = 4  # that are named for one reason
REASONS = 60


def frozen_section(manifest: Manifest) -> Section | None:
    """Return the reasons, most channels first, each with its tensors and where the code that causes it stands."""
    if "frozen" not in manifest.plan:
        return None
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for axis in manifest.plan["frozen"]:
        by_reason.setdefault((axis["reason"], axis.get("source") or ""), []).append(axis)
    if not by_reason:
        return Section(
            "frozen",
            "What stayed, and why",
            ("Nothing is frozen: every channel of the model could have been removed.",),
        )
    ordered = sorted(by_reason.items(), key=lambda item: -sum(axis["count"] for axis in item[1]))
    rows = tuple(
        (
            reason,
            format_count(sum(axis["count"] for axis in axes)),
            list_markup(tuple(f"{axis['tensor']}, axis {axis['axis']}" for axis in axes), TENSORS),
            code_markup(_place(source)) if source else "",
        )
        for (reason, source), axes in ordered[:REASONS]
    )
    listed_of = f", the first {REASONS} of {len(ordered):,} reasons; all are in manifest.json"
    caption = f"Frozen channels{listed_of if len(ordered) > REASONS else ''}"
    return Section(
        "frozen",
        "What stayed, and why",
        (
            "These channels are kept whatever the sparsity: the analysis does not remove what it cannot prove to be without effect.",
        ),
        tables=(PageTable(caption, ("reason", "channels", "of", "caused in"), rows, frozenset({0, 2, 3})),),
    )


def _place(source: str) -> str:
    """Return a line of code by the last parts of its file's path.

    >>> _place('"/home/me/shop/models/dlrm.py", line 42')
    'models/dlrm.py, line 42'
    """
    found = _SOURCE.fullmatch(source)
    return f"{'/'.join(PurePath(found[1]).parts[-2:])}, line {found[2]}" if found else source
