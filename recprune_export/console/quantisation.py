"""What was quantised, why, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recprune_export.console.tables import format_figure, make_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_quantization(console: "Console", section: Mapping[str, Any]) -> None:
    """Show the section `quantisation` of a manifest."""
    for title, choices in (("Linear layers", section["layers"]), ("Tables", section["tables"])):
        if choices:
            console.print(_choices(f"{title}, quantised for {section['mode']}", choices))
    sizes, loss = section["bytes"], section["loss"]
    interval = loss["interval"]
    doubt = "" if interval is None else f" (95 % interval {interval[0]:+.5f} to {interval[1]:+.5f})"
    faster = ", ".join(f"batch {batch} {ratio['estimate']:.2f}×" for batch, ratio in section["speedups"].items())
    console.print(
        f"Quantised: {sizes['before']:,} to {sizes['after']:,} bytes; {loss['metric']} loses {loss['lost']:.5f}{doubt}, allowed "
        f"{loss['limit']:g}; answers off by {section['error']:.2%} of how much they vary"
        + (f"; faster than in fp32: {faster}" if faster else ""),
        highlight=False,
        markup=False,
    )


def _choices(title: str, choices: Sequence[Mapping[str, Any]]) -> "Table":
    batches = next((list(choice["speedups"]) for choice in choices if choice["speedups"]), [])
    table = make_table(title, "", "shape", "form", *(f"batch {batch}" for batch in batches), "error", "bytes", "")
    for choice in choices:
        speeds = [format_figure(choice["speedups"].get(batch), ".2f") for batch in batches]
        sizes = "→".join(f"{size:,}" for size in dict.fromkeys(choice["bytes"]))
        shape = "×".join(map(str, choice["shape"]))
        table.add_row(
            choice["name"],
            shape,
            choice["form"],
            *speeds,
            format_figure(choice["error"], ".1e"),
            sizes,
            choice["reason"],
        )
    return table
