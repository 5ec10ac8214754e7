"""`pack`: pack a bundle into one file."""

from pathlib import Path

import click

from recprune_export.cli.input_paths import BUNDLE
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, print_json
from recprune_export.progress import show_status


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option("-o", "--output", type=FILE, help="The file to write.  [default: BUNDLE.tar.zst]")
@screen_options()
def pack(bundle: Path, output: Path | None, as_json: bool) -> None:
    """Pack BUNDLE into one .tar.zst file. All other commands read it as well. The result is reproducible byte for byte."""
    with show_status(f"Packing {bundle}"):
        from recprune_export.bundle.archive.packing import pack as run

        path = run(bundle, output)
    size = path.stat().st_size
    if as_json:
        print_json({"bundle": bundle, "output": path, "bytes": size})
    else:
        echo(f"Packed {bundle} into {path}, {size:,} bytes.")
