"""A bundle as one file."""

from pathlib import Path

import click

from recprune_export.cli.group import main
from recprune_export.cli.options import FILE


@main.command()
@click.argument("bundle", type=FILE)
@click.option("-o", "--output", type=FILE, help="The file to write.  [default: BUNDLE.tar.zst]")
def pack(bundle: Path, output: Path | None) -> None:
    """Pack BUNDLE into one .tar.zst, which every other command reads as well; the same bundle gives the same bytes."""
    from recprune_export.bundle.packing import pack as run

    path = run(bundle, output)
    click.echo(f"Packed {bundle} into {path}, {path.stat().st_size:,} bytes.")
