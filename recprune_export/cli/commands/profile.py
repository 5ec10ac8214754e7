"""`profile`: the time of each node in ONNX Runtime."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recprune_export.cli.input_paths import ARTIFACT
from recprune_export.cli.main_group import main
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.show_import import ONNXRUNTIME, show_import
from recprune_export.cli.tables import make_console, make_table, print_json
from recprune_export.progress import show_status

if TYPE_CHECKING:
    from recprune_export.onnx.cost.profiler import Profile


@main.command()
@click.argument("bundle", type=ARTIFACT)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Rows per request.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of ONNX Runtime.")
@click.option("--nodes", type=click.IntRange(1), default=15, show_default=True, help="Number of nodes to show.")
@screen_options()
def profile(bundle: Path, batch_size: int, threads: int, nodes: int, as_json: bool) -> None:
    """Show the time of each node in ONNX Runtime, the slowest first. BUNDLE is a bundle or an .onnx file."""
    with show_import(ONNXRUNTIME):
        from recprune_export.bundle.archive.unpacking import open_bundle_path
        from recprune_export.bundle.artifact_summary import profile_artifact

    with open_bundle_path(bundle) as folder, show_status(f"Profiling {bundle}"):
        result = profile_artifact(folder, batch_size, threads)
    print_profile(result, nodes, as_json=as_json)


def print_profile(profile: "Profile", nodes: int, *, as_json: bool) -> None:
    """Print the most expensive nodes, the slowest first."""
    if as_json:
        return print_json(profile.to_dict())
    table = make_table(
        f"Batch {profile.batch}, {profile.requests} requests: {profile.milliseconds:.3f} ms in the nodes, "
        f"floor {profile.floor:.3f} ms",
        "node",
        "operator",
        "ms",
        "share",
        "floor, ms",
    )
    for node in profile.nodes[:nodes]:
        table.add_row(node.name, node.operator, f"{node.milliseconds:.4f}", f"{node.share:.1%}", f"{node.floor:.4f}")
    remaining = profile.nodes[nodes:]
    if remaining:
        share = sum(node.share for node in remaining)
        table.add_row(f"{len(remaining)} more", "", f"{sum(n.milliseconds for n in remaining):.4f}", f"{share:.1%}", "")
    make_console().print(table)
