"""What a model or a bundle holds."""

from pathlib import Path
from typing import Any

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, loading_options
from recprune_export.cli.parse_values import parse_json_object


@main.command()
@loading_options
@click.option(
    "--latency-batch-sizes", default="1,32,256,1024", show_default=True, help="For a bundle: batch sizes of its costs."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="For a bundle: of the machine.")
@click.option("--scores", is_flag=True, help="Also rank the channels of each group by every score, and compare.")
@click.option("--data", type=FILE, help="For --scores: rows; without, requests are drawn from the signature.")
@click.option("--label", "labels", multiple=True, metavar="COLUMN", help="For models that are not our checkpoints.")
@click.option("--fields", is_flag=True, help="Also say which whole fields can go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def inspect(
    model: Path,
    latency_batch_sizes: str,
    threads: int,
    scores: bool,
    data: Path | None,
    labels: tuple[str, ...],
    fields: bool,
    as_json: bool,
    quiet: bool,
    factory_args: str | None,
    **source: Any,
) -> None:
    """Show inputs, parameters, channel groups, and what is frozen and why.

    For a bundle or an .onnx file: parameters, operations and bytes of a request, and the floor of this machine.
    """
    from recprune_export.bundle.archive.unpacking import is_packed, open_bundle_path
    from recprune_export.bundle.artifact_summary import is_artifact
    from recprune_export.progress import quiet as silently

    click.get_current_context().with_resource(silently(quiet or as_json))
    if not scores and data:
        raise click.UsageError("--data belongs to --scores: give that as well.")
    if is_artifact(model) or is_packed(model):
        if scores:
            raise click.UsageError("--scores needs the dense model that the bundle was made of.")
        from recprune_export.bundle.artifact_summary import inspect_artifact
        from recprune_export.console.artifact import print_artifact
        from recprune_export.settings import parse_batch_sizes

        with open_bundle_path(model) as folder:
            return print_artifact(
                inspect_artifact(folder, parse_batch_sizes(latency_batch_sizes), threads), as_json=as_json
            )
    from recprune_export.console.inspection import print_inspection
    from recprune_export.inspection import inspect_file

    source["factory_args"] = parse_json_object(factory_args)
    inspection = inspect_file(model, fields=fields, **source)
    if not scores:
        return print_inspection(inspection, as_json=as_json)
    from recprune_export.api import compute_sensitivity
    from recprune_export.console.scores import print_scores

    found = compute_sensitivity(model, data=data, labels=labels, source=source)
    print_scores(inspection, found, as_json=as_json)
