"""`generate`: write a synthetic data set."""

from pathlib import Path

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, seed_option
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, print_json
from recprune_export.progress import show_status


@main.command()
@click.option("--rows", type=click.IntRange(1), default=60_000, show_default=True, help="Number of rows.")
@click.option(
    "--kind",
    type=click.Choice(["clicks", "sequences"]),
    default="clicks",
    show_default=True,
    help="What each row is: a shown item with a label, or an item of a user's history.",
)
@seed_option
@click.option("-o", "--output", type=FILE, required=True, help="A .parquet or .csv file.")
@screen_options()
def generate(rows: int, kind: str, seed: int, output: Path, as_json: bool) -> None:
    """Write a synthetic data set for experiments. Ids follow a power law, and labels are learnable."""
    with show_status(f"Generating {rows:,} rows"):
        from recprune_export.data.generate import generate_clicks, generate_sequences

        {"clicks": generate_clicks, "sequences": generate_sequences}[kind](output, rows, seed)
    if as_json:
        print_json({"output": output, "kind": kind, "rows": rows, "seed": seed})
    else:
        echo(f"Wrote {rows} generated rows to {output}.")
