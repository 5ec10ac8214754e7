"""Quality, size and speed over sparsity."""

from pathlib import Path
from typing import Any

import click

from recprune_export.cli.compress import compress
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, job_options, loading_options
from recprune_export.cli.parse_values import model_source, parse_fractions
from recprune_export.cli.reproduce_command import reproduce_command


@main.command()
@loading_options
@job_options
@click.option("--data", type=FILE, required=True, help="CSV, Parquet or NPZ with rows to tune and measure on.")
@click.option("--sparsities", default="0.3,0.5,0.7,0.8,0.9,0.95", show_default=True)
@click.option("-o", "--output", type=FILE, help="Directory for the results.  [default: artifacts/<name>-sweep]")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.pass_context
def sweep(
    asked: click.Context,
    model: Path,
    factory: str | None,
    factory_args: str | None,
    inputs: Path | None,
    unsafe_unpickle: bool,
    data: Path,
    labels: tuple[str, ...],
    sparsities: str,
    latency_batch_sizes: str,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Show quality, size and speed over sparsity, and where the knee is: a table and sweep.json.

    What was measured is kept: given again, the command goes on where it was interrupted.
    """
    from recprune_export.settings import Settings, parse_batch_sizes

    settings = Settings(latency_batch_sizes=parse_batch_sizes(latency_batch_sizes), **options)
    wanted = parse_fractions(sparsities, "--sparsities")
    target = output or Path("artifacts") / f"{model.stem}-sweep"
    from recprune_export.api import sweep as run
    from recprune_export.console.sweep import print_sweep, print_trial
    from recprune_export.progress import quiet as silently

    source = model_source(factory, factory_args, inputs, unsafe_unpickle)
    with silently(quiet or as_json):
        found = run(
            model, target=target, data=data, labels=labels, sparsities=wanted, settings=settings, source=source,
            on_trial=print_trial,
        )  # fmt: skip
    print_sweep(found, target, reproduce_command(asked, compress), as_json=as_json)
