"""Where ONNX Runtime spends its time."""

from pathlib import Path

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE


@main.command()
@click.argument("bundle", type=FILE)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Rows of the request.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--nodes", type=click.IntRange(1), default=15, show_default=True, help="How many nodes to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, of all nodes, instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def profile(bundle: Path, batch_size: int, threads: int, nodes: int, as_json: bool, quiet: bool) -> None:
    """Name the nodes of a bundle or an .onnx file on which ONNX Runtime spends its time."""
    from recprune_export.bundle.archive.unpacking import open_bundle_path
    from recprune_export.bundle.artifact_summary import profile_artifact
    from recprune_export.console.profile import print_profile
    from recprune_export.progress import quiet as silently

    with open_bundle_path(bundle) as folder, silently(quiet or as_json):
        found = profile_artifact(folder, batch_size, threads)
    print_profile(found, nodes, as_json=as_json)
