"""`sweep`: quality, size and speed over sparsity and over bytes."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.commands.compress import compress
from recprune_export.cli.headline import print_line
from recprune_export.cli.input_paths import ROWS_OR_ARRAYS
from recprune_export.cli.job_file import config_option
from recprune_export.cli.main_group import main
from recprune_export.cli.option_groups import GroupedCommand
from recprune_export.cli.options import FILE, job_options, loading_options, reading_options, streaming_options
from recprune_export.cli.parse_values import model_source, parse_fractions, parse_names
from recprune_export.cli.reproduce_command import SPARSITY_ONLY, reproduce_command
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.shard_type import SHARD
from recprune_export.cli.show_import import PYTORCH, show_import
from recprune_export.cli.tables import echo, make_console, make_table, print_json, prints_after_work, quote_for_shell
from recprune_export.number_formats import format_bytes, format_estimate, format_ratio
from recprune_export.shard import Shard

if TYPE_CHECKING:
    from recprune_export.search._sweep import Sweep
    from recprune_export.search.sweep_shard import SweepShard
    from recprune_export.search.trial import Trial


@main.command(cls=GroupedCommand)
@loading_options
@job_options
@reading_options
@streaming_options
@click.option(
    "--data",
    type=ROWS_OR_ARRAYS,
    required=True,
    help="Rows for fine-tuning and evaluation: CSV or Parquet (a file, a folder, a glob, s3://...), or NPZ.",
)
@click.option(
    "--max-drop", type=float, metavar="DROP", help="Largest drop of the metric that the recommended point may have."
)
@click.option("--sparsities", default="0.3,0.5,0.7,0.8,0.9,0.95", show_default=True, help="Sparsities to try, or none.")
@click.option(
    "--byte-fractions",
    default="0.3,0.2,0.1,0.07,0.05,0.03",
    show_default=True,
    help="Fractions of the size of the dense file to try, with widths and bits chosen together; or none.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Number of processes that prune and fine-tune."
)
@click.option(
    "--shard",
    type=SHARD,
    help="Prune and fine-tune only every n-th point, starting at the i-th, into a shared folder. Afterwards, the command without "
    "--shard measures the latency of all points.",
)
@click.option("-o", "--output", type=FILE, help="Directory for the results.  [default: artifacts/<name>-sweep]")
@config_option
@screen_options()
@click.pass_context
def sweep(
    context: click.Context,
    model: Path,
    factory: str | None,
    factory_args: str | None,
    inputs: Path | None,
    unsafe_unpickle: bool,
    key: str | None,
    data: Path,
    labels: tuple[str, ...],
    sparsities: str,
    byte_fractions: str,
    latency_batch_sizes: str,
    outputs: str,
    jobs: int,
    shard: Shard | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare quality, size and speed at several operating points.

    The points are sparsities, sizes, and the dense model in int8; the results are a table and sweep.json. Trials are saved:
    the same command continues where it was interrupted. Each of the --jobs processes loads the model and the rows and uses an
    equal part of the cores. Latency is measured afterwards, one file after the other.
    """
    from recprune_export.settings import Settings, parse_batch_sizes

    settings = Settings(
        latency_batch_sizes=parse_batch_sizes(latency_batch_sizes), outputs=parse_names(outputs), **options
    )
    fractions = parse_fractions(sparsities, "--sparsities", allow_none=True)
    bytes_of_dense = parse_fractions(byte_fractions, "--byte-fractions", allow_none=True, allow_zero=False)
    target = output or Path("artifacts") / f"{model.stem}-sweep"
    with show_import(PYTORCH):
        from recprune_export.api import sweep as run
        from recprune_export.api import sweep_shard

    job: dict[str, Any] = {
        "target": target, "data": data, "labels": labels, "sparsities": fractions, "byte_fractions": bytes_of_dense,
        "settings": settings, "source": model_source(factory, factory_args, inputs, unsafe_unpickle, key), "jobs": jobs,
    }  # fmt: skip
    if shard is not None:
        return print_shard(sweep_shard(model, shard=shard, **job), target, as_json=as_json)
    result = run(model, on_trial=print_trial, **job)
    point = result.recommendation.point
    without = SPARSITY_ONLY if point is not None and point.kind != "sparsity" else frozenset()
    print_sweep(result, target, reproduce_command(context, compress, without), as_json=as_json)


def print_trial(trial: "Trial") -> None:
    """Print the result of a trial in one line."""
    from recprune_export.progress import print_status

    assert trial.artifact is not None
    print_status(
        f"{trial.point.label}: {trial.change.metric} {format_estimate(trial.change.estimate)}, "
        f"{format_ratio(trial.artifact.overall)} as fast"
    )


@prints_after_work
def print_shard(result: "SweepShard", folder: Path, *, as_json: bool) -> None:
    """Print the points that one machine has tuned, and the next step."""
    if as_json:
        return print_json({"output": folder, **result.to_dict()})
    tuned = ", ".join(point.label for point in result.points) or "none of the points"
    echo(f"Tuned, shard {result.shard}: {tuned}.")
    echo(result.next_step)


@prints_after_work
def print_sweep(search: "Sweep", folder: Path, arguments: Sequence[str], *, as_json: bool) -> None:
    """Print quality, size and speed at each point, and the next command, made from the `arguments` shared with `compress`."""
    if as_json:
        return print_json({"output": folder, **search.to_dict()})
    console = make_console()
    first = search.trials[0]
    assert first.artifact is not None
    batches = [f"batch {batch}" for batch in first.artifact.speedup]
    title = (
        f"Change of {first.change.metric} from {first.change.before:.4f} (dense) on {first.change.rows:,} validation rows; speed-up "
        "over dense in ONNX Runtime"
    )
    table = make_table(title, "point", f"{first.change.metric} [95 %]", "parameters", "nonzero", "file", *batches, "")
    for number, trial in enumerate(search.trials):
        artifact = trial.artifact
        assert artifact is not None
        table.add_row(
            trial.point.label,
            format_estimate(trial.change.estimate),
            f"{artifact.parameters:,}",
            f"{artifact.nonzero:,}",
            format_bytes(artifact.bytes),
            *(format_ratio(speed) for speed in artifact.speedup.values()),
            "knee" if number == search.knee else "",
        )
    console.print(table)
    console.print(
        f"Written: {folder / 'sweep.json'}; plot it with `recprune-export report BUNDLE --sweep {quote_for_shell(folder)}`",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    recommendation = search.recommendation
    if recommendation.point is None:
        console.print(f"Recommended: {recommendation.reason}", highlight=False, soft_wrap=True)
        return
    console.print(
        f"Recommended: {recommendation.point.label}, {recommendation.reason}", highlight=False, soft_wrap=True
    )
    words = [word for pair in recommendation.point.options.items() for word in pair]
    print_line("Next", f"recprune-export {shlex.join([*arguments, *words])}")
