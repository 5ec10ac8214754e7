"""`generate`: write a synthetic data set."""

from pathlib import Path

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, print_json


@main.command()
@click.option("--rows", type=click.IntRange(1), default=60_000, show_default=True)
@click.option("--kind", type=click.Choice(["clicks", "sequences"]), default="clicks", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=FILE, required=True, help="A .parquet or .csv file.")
@screen_options("Print JSON instead of a sentence.")
def generate(rows: int, kind: str, seed: int, output: Path, as_json: bool) -> None:
    """Write a synthetic data set for experiments. Ids follow a power law, and labels are learnable."""
    from recprune_export.data.generate import generate_clicks, generate_sequences

    {"clicks": generate_clicks, "sequences": generate_sequences}[kind](output, rows, seed)
    if as_json:
        print_json({"rows": rows, "kind": kind, "seed": seed, "path": str(output)})
    else:
        echo(f"Wrote {rows} generated rows to {output}.")
