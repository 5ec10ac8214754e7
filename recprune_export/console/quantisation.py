"""What was quantised, why, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recprune_export.console.tables import figure, table_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_quantisation(console: "Console", stated: Mapping[str, Any]) -> None:
    """Show the section `quantisation` of a manifest."""
    for title, choices in (("Linear layers", stated["layers"]), ("Tables", stated["tables"])):
        if choices:
            console.print(_choices(f"{title}, quantised for {stated['mode']}", choices))
    sizes, loss = stated["bytes"], stated["loss"]
    interval = loss["interval"]
    doubt = "" if interval is None else f" (95 % interval {interval[0]:+.5f} to {interval[1]:+.5f})"
    faster = ", ".join(f"batch {batch} {ratio['estimate']:.2f}×" for batch, ratio in stated["speedups"].items())
    console.print(
        f"Quantised: {sizes['before']:,} to {sizes['after']:,} bytes; {loss['metric']} loses {loss['lost']:.5f}{doubt}, allowed "
        f"{loss['limit']:g}; answers off by {stated['error']:.2%} of how much they vary"
        + (f"; faster than in fp32: {faster}" if faster else ""),
        highlight=False,
        markup=False,
    )


def _choices(title: str, choices: Sequence[Mapping[str, Any]]) -> "Table":
    batches = next((list(choice["speedups"]) for choice in choices if choice["speedups"]), [])
    table = table_of(title, "", "shape", "form", *(f"batch {batch}" for batch in batches), "error", "bytes", "")
    for choice in choices:
        speeds = [figure(choice["speedups"].get(batch), ".2f") for batch in batches]
        sizes = "→".join(f"{size:,}" for size in dict.fromkeys(choice["bytes"]))
        shape = "×".join(map(str, choice["shape"]))
        table.add_row(
            choice["name"], shape, choice["form"], *speeds, figure(choice["error"], ".1e"), sizes, choice["reason"]
        )
    return table
