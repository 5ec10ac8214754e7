"""Tables of the removed parts of a model, and of the parts that cannot be removed, with the reasons."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recprune_export.cli.headline import print_line
from recprune_export.cli.tables import make_console, make_table, print_json, print_notes
from recprune_export.number_formats import format_bytes, format_share

if TYPE_CHECKING:
    from rich.table import Table

    from recprune_export.channels.groups import FrozenAxis
    from recprune_export.pipeline.preview import Preview

MAX_AXES = 4  # the number of axes named for one reason


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


def print_preview(preview: "Preview", *, as_json: bool) -> None:
    """Print the parts that the main job would remove, the parts that cannot be removed, and facts that are not known before the job
    runs."""
    if as_json:
        return print_json(preview.to_dict())
    console = make_console()
    print_line("Size", _describe_size(preview))
    widths = make_table("Widths", "group", "kind", "before", "after", "removed", texts=("kind",))
    for group in preview.widths:
        after = ("", "") if group.kept is None else (f"{group.kept:,}", format_share(1.0 - group.kept / group.width))
        widths.add_row(group.label, group.kind, f"{group.width:,}", *after)
    console.print(widths)
    if preview.removed_fields:
        print_line("Fields", f"{', '.join(preview.removed_fields)} would be removed; their inputs stay and are ignored")
    for table, (before, after_rows) in preview.table_rows.items():
        print_line("Rows", f"{table}: {before:,} to {after_rows:,}, of which one is shared by the rare ids")
    if preview.frozen:
        console.print(make_frozen_table(preview.frozen))
    print_notes(preview.notes)
    for number, sentence in enumerate(preview.unknown):
        print_line("" if number else "Open", sentence)
    print_line("Bundle", f"{preview.target} (dry run: nothing was written)")


def _describe_size(preview: "Preview") -> str:
    total = preview.dense.tables + preview.dense.rest
    if preview.pruned is None or preview.pruned_bytes is None:
        return f"{total:,} parameters, {format_bytes(preview.dense_bytes)} of weights"
    removed = total - preview.pruned.tables - preview.pruned.rest
    zeroed = f", and {format_share(preview.zeroed / total)} set to zero" if preview.zeroed else ""
    return (
        f"{format_bytes(preview.dense_bytes)} of weights to {format_bytes(preview.pruned_bytes)}: {format_share(removed / total)} of "
        f"{total:,} parameters would be removed{zeroed}"
    )
