"""`split`: write a file for each tower of a two-tower model, and an index of its items."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.headline import print_line
from recprune_export.cli.input_paths import BUNDLE, DATA
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, reading_options
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.show_import import PYTORCH, show_import
from recprune_export.cli.tables import (
    echo,
    make_console,
    make_table,
    print_json,
    print_notes,
    prints_after_work,
    quote_for_shell,
)
from recprune_export.errors import UsageError
from recprune_export.number_formats import format_bytes
from recprune_export.progress import show_status

if TYPE_CHECKING:
    from recprune_export.pipeline.towers.split_bundle import SplitResult


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--items",
    type=DATA,
    help="CSV or Parquet with one row per item, raw values as in training: adds the vectors of the items and an index.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="Column of --items with your ids.  [default: the first]")
@click.option(
    "--users",
    type=DATA,
    help="CSV or Parquet with rows of users, on which the recall is measured.  [default: drawn from the signature]",
)
@click.option(
    "--user-input",
    metavar="NAME",
    help="An input of the user tower.  [default: a shared input, otherwise the first input]",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="K",
    help="How many best items the recall counts.",
)
@click.option("--no-index", is_flag=True, help="Write the vectors of the items without an index.")
@click.option("-o", "--output", type=FILE, help="Directory of the new bundle.  [default: BUNDLE is replaced]")
@reading_options
@screen_options()
def split(
    bundle: Path,
    items: Path | None,
    id_column: str | None,
    users: Path | None,
    user_input: str | None,
    top_k: int,
    no_index: bool,
    output: Path | None,
    separator: str | None,
    encoding: str | None,
    allow_unknown: bool,
    as_json: bool,
) -> None:
    """Split a two-tower model into user.onnx and item.onnx.

    The inner product of their outputs gives the score of the model. The model must consist of two towers with separate inputs
    that meet in one inner product or cosine; other models are refused with a reason. An index requires `pip install
    'recprune-export[index]'`. The new bundle is not signed.
    """
    from recprune_export.bundle.archive.unpacking import is_packed, open_bundle_path
    from recprune_export.settings import DataSettings

    for option, value in (("--id", id_column), ("--users", users), ("--no-index", no_index)):
        if value and items is None:
            raise UsageError(f"{option} is used only with --items: give --items as well.")
    if is_packed(bundle) and output is None:
        raise UsageError(f"{bundle} is packed: give the directory of the new bundle with --output.")
    with show_import(PYTORCH):
        from recprune_export.pipeline.towers.split_bundle import ItemSource, split_bundle

    with show_status(f"Splitting {bundle}"):
        reading = DataSettings(separator, encoding, allow_unknown)
        source = None if items is None else ItemSource(items, id_column, users, top_k, not no_index, reading)
        with open_bundle_path(bundle) as folder:
            result = split_bundle(folder, output, source=source, user_input=user_input)
    print_split(bundle, result, as_json=as_json)


@prints_after_work
def print_split(bundle: Path, result: "SplitResult", *, as_json: bool) -> None:
    """Print the towers, the operator that combines them, and the index compared with that of the dense model."""
    towers = result.towers
    if as_json:
        values = {"bundle": bundle, "output": result.target, "towers": dict(towers), "notes": result.notes}
        return print_json(values)
    for tower in (towers["user"], towers["item"]):
        echo(f"{tower['file']}: {', '.join(tower['inputs'])} to a vector of {towers['width']} numbers")
    echo(f"{towers['formula']} ({towers['similarity']}), compared with model.onnx on {towers['parity']['rows']} rows")
    if "items" in towers:
        items = towers["items"]
        echo(
            f"{items['file']}: {items['count']:,} items, {format_bytes(items['bytes'])}; ids in {items['ids']} from '{items['id_column']}'"
        )
    if "index" in towers:
        print_index(towers["index"])
    print_notes(result.notes)
    if result.was_signed:
        echo("Note: The new bundle is not signed; sign it with `recprune-export sign`.", err=True)
    print_line("Bundle", str(result.target))
    print_line("Next", f"recprune-export verify {quote_for_shell(result.target)}")


def print_index(index: "dict[str, Any]") -> None:
    """Print the size, recall and times of an index, and of the dense model's index."""
    columns = {"pruned": index, **({"dense": index["dense"]} if "dense" in index else {})}
    table = make_table(
        f"Index of the items ({index['library']}), best {index['k']} of {index['queries']} users", "", *columns
    )
    rows = {
        "bytes of the index": lambda of: format_bytes(of["bytes"]),
        "bytes of the vectors": lambda of: format_bytes(of["vector_bytes"]),
        "width of a vector": lambda of: str(of["width"]),
        "recall against exact search": lambda of: f"{of['recall']:.4f}",
        "time per user, index": lambda of: f"{of['search_microseconds']:.0f} µs",
        "time per user, exact search": lambda of: f"{of['exact_microseconds']:.0f} µs",
    }
    for name, form in rows.items():
        table.add_row(name, *(form(of) for of in columns.values()))
    console = make_console()
    console.print(table)
    if "dense" in index:
        console.print(
            f"{index['dense']['same_best_items']:.1%} of the dense model's exact best items are also best items of the pruned model",
            highlight=False,
        )
