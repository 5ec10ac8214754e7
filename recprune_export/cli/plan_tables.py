"""Tables of what a plan removes, and of what cannot be removed with the reasons."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recprune_export.cli.tables import make_table

if TYPE_CHECKING:
    from rich.table import Table

    from recprune_export.channels.groups import FrozenAxis

MAX_AXES = 4  # named for one reason


def make_frozen_table(frozen: "Sequence[FrozenAxis]") -> "Table":
    """Return a table of the axes that are frozen for each reason, with the number of frozen indices."""
    by_reason: dict[str, list[FrozenAxis]] = defaultdict(list)
    for axis in frozen:
        where = f" ({axis.reason.source})" if axis.reason.source else ""
        by_reason[axis.reason.text + where].append(axis)
    table = make_table("Frozen", "reason", "axes (indices)", texts=("axes (indices)",))
    for reason, axes in by_reason.items():
        places = ", ".join(f"{axis.tensor}:{axis.axis} ({axis.count})" for axis in axes[:MAX_AXES])
        table.add_row(reason, places + (f" and {len(axes) - MAX_AXES} more" if len(axes) > MAX_AXES else ""))
    return table
