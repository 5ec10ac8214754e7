"""The command line: thin, over functions that Python can call as well. Nothing heavy is imported before it is needed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from recprune_export import __version__
from recprune_export.errors import RecpruneError
from recprune_export.pruning.scores.names import NAMES

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)

WISHES = ("labels", "categorical", "numeric", "multi_valued", "ignore", "split", "sequence", "max_length", "seed")
RECIPE = ("epochs", "batch_size", "learning_rate", "patience", "seed")

INTERRUPTED = 130  # as a shell has it for a program that ended by Ctrl-C

EPILOG = """\b
Exit codes: 0 done; 1 a validation failed, nothing was written; 2 usage;
3 bad input file; 4 the model cannot be captured, pruned or exported;
5 `check` could not decide."""


class MainJobGroup(click.Group):
    """`recprune-export MODEL ...` is `recprune-export compress MODEL ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["compress", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Turn the user's errors into one sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except RecpruneError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted; nothing was left half-written.", err=True)
            ctx.exit(INTERRUPTED)


def _loading_options(command: F) -> F:
    return click.argument("model", type=FILE)(_source_options(command))


def _source_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--factory", metavar="PACKAGE.MODULE:FUNCTION", help="Makes the model of a state dict."),
            click.option("--factory-args", metavar="JSON", help="Keyword arguments of the factory."),
            click.option(
                "--inputs", type=FILE, metavar="NPZ", help="An example request, for a state dict or a pickle."
            ),
            click.option(
                "--unsafe-unpickle",
                is_flag=True,
                help="Open a pickled nn.Module. This runs whatever code the file holds.",
            ),
        )
    ):
        command = option(command)
    return command


def _job_options(command: F) -> F:
    """What is asked of one run of the main job, and of each in a sweep."""
    for option in reversed(
        (
            click.option(
                "--score",
                type=click.Choice(["auto", *NAMES]),
                default="auto",
                show_default=True,
                help="Which channels go first.",
            ),
            click.option(
                "--label", "labels", multiple=True, metavar="COLUMN", help="For models that are not our checkpoints."
            ),
            click.option("--epochs", type=click.IntRange(0), help="Of fine-tuning.  [default: by the kind of model]"),
            click.option("--learning-rate", type=float, help="[default: by the kind of model]"),
            click.option(
                "--batch-size", type=click.IntRange(1), help="Of fine-tuning.  [default: by the kind of model]"
            ),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option(
                "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the latency measurement."
            ),
            click.option(
                "--batches", default="1,32,256,1024", show_default=True, help="Batch sizes of the latency measurement."
            ),
        )
    ):
        command = option(command)
    return command


def _data_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--label", "labels", multiple=True, metavar="COLUMN", help="A 0/1 column; may be repeated."),
            click.option(
                "--ignore", multiple=True, metavar="COLUMN", help="A column that is not read; may be repeated."
            ),
            click.option("--categorical", multiple=True, metavar="COLUMN", help="Read as a categorical field."),
            click.option("--numeric", multiple=True, metavar="COLUMN", help="Read as a numeric field."),
            click.option(
                "--multi-valued", multiple=True, metavar="COLUMN:SEPARATOR", help="Several values in one string."
            ),
            click.option("--sequence", metavar="USER,ITEM,ORDER", help="Columns of a log of user actions."),
            click.option(
                "--max-length", type=click.IntRange(1), help="Items of a history that are used.  [default: 50]"
            ),
        )
    ):
        command = option(command)
    return command


@click.group(
    cls=MainJobGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, package_name="recprune-export")
def main() -> None:
    """Make a trained recommender small and fast on CPU, and prove it.

    \b
    recprune-export MODEL --sparsity 0.7    prune, fine-tune, export, validate: writes a bundle
    """


@main.command()
@_loading_options
@click.option("--sparsity", type=float, default=0.7, show_default=True, help="Fraction of the parameters that goes.")
@click.option("--embedding-sparsity", type=float, help="The same for the embedding tables alone.")
@click.option("--hidden-sparsity", type=float, help="The same for everything else.")
@click.option(
    "--prune-fields",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="First remove the N fields that the loss needs least; their inputs stay and are ignored.",
)
@click.option(
    "--structured-share",
    type=float,
    default=0.95,
    show_default=True,
    help="Part that removed channels take; zeros the rest.",
)
@click.option(
    "--prune-rows",
    metavar="SHARE|auto",
    help="Let this share of all ids, the rarest in --data, share a row of their table.",
)
@click.option("--round-to", type=int, default=16, show_default=True, help="Hidden widths end on a multiple of this.")
@click.option("--no-refit", "refit", flag_value=False, default=True, help="Do not refit layers by least squares.")
@click.option(
    "--regularise",
    type=float,
    default=0.0,
    metavar="STRENGTH",
    help="Train under a group lasso first, so that channels are zero before they go. Takes as long as the tuning; try 1.",
)
@click.option("--plan", "plan_file", type=FILE, help="Apply this plan.json instead of making one.")
@click.option("--plan-only", is_flag=True, help="Print the plan as JSON and stop.")
@click.option("--zeros", type=click.Choice(["gradual", "one-shot"]), default="gradual", show_default=True)
@click.option("--data", type=FILE, help="CSV, Parquet or NPZ with rows to tune and measure on.")
@click.option("--warm-up", type=float, default=0.0, show_default=True, help="Share of tuning in which the rate rises.")
@click.option(
    "--ema", type=float, metavar="DECAY", help="Keep a moving average of the tuned weights, for example 0.99."
)
@click.option(
    "--steps", type=int, default=1, show_default=True, help="Prune a part, tune, prune further, so many times."
)
@_job_options
@click.option(
    "--shared-inputs", default="", metavar="NAME,...", help="Inputs that are the same for all candidates of a request."
)
@click.option(
    "--max-drop", type=float, metavar="DROP", help="Search the largest sparsity at which quality falls no more."
)
@click.option("--target-speedup", type=float, metavar="TIMES", help="Search the least sparsity that is so much faster.")
@click.option("--no-dense", is_flag=True, help="Leave the dense baseline out of the bundle.")
@click.option("-o", "--output", type=FILE, help="Directory of the bundle.  [default: artifacts/<name of MODEL>]")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def compress(
    model: Path,
    factory: str | None,
    factory_args: str | None,
    inputs: Path | None,
    unsafe_unpickle: bool,
    plan_file: Path | None,
    plan_only: bool,
    data: Path | None,
    labels: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    quiet: bool,
    batches: str,
    shared_inputs: str,
    no_dense: bool,
    prune_rows: str | None,
    **options: Any,
) -> None:
    """Prune, fine-tune, export and validate MODEL; write a bundle.

    MODEL is a checkpoint of `recprune-export train`, a .pt2 program, a state dict (with --factory and --inputs), or a
    pickled nn.Module (with --unsafe-unpickle and --inputs).
    """
    from recprune_export.settings import Settings, batch_sizes, row_share

    share = None if prune_rows is None else row_share(prune_rows)
    shared = tuple(name.strip() for name in shared_inputs.split(",") if name.strip())
    settings = Settings(
        batches=batch_sizes(batches), shared_inputs=shared, keep_dense=not no_dense, prune_rows=share, **options
    )
    from recprune_export.console import print_result
    from recprune_export.jobs import compress as run
    from recprune_export.jobs import plan_of
    from recprune_export.progress import quiet as silently

    with silently(quiet or as_json):
        source = _source(factory, factory_args, inputs, unsafe_unpickle)
        if plan_only:
            click.echo(plan_of(model, data=data, labels=labels, settings=settings, source=source))
            return
        result = run(
            model,
            target=output,
            data=data,
            labels=labels,
            settings=settings,
            plan=plan_file,
            source=source,
            command=sys.argv[1:],
        )
    print_result(result, as_json=as_json)


@main.command()
@_loading_options
@_job_options
@click.option("--data", type=FILE, required=True, help="CSV, Parquet or NPZ with rows to tune and measure on.")
@click.option("--sparsities", default="0.3,0.5,0.7,0.8,0.9,0.95", show_default=True)
@click.option("-o", "--output", type=FILE, help="Directory for the results.  [default: artifacts/<name>-sweep]")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def sweep(
    model: Path,
    factory: str | None,
    factory_args: str | None,
    inputs: Path | None,
    unsafe_unpickle: bool,
    data: Path,
    labels: tuple[str, ...],
    sparsities: str,
    batches: str,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Show quality, size and speed over sparsity, and where the knee is: a table, sweep.json and sweep.svg.

    What was measured is kept: given again, the command goes on where it was interrupted.
    """
    from recprune_export.settings import Settings, batch_sizes

    settings = Settings(batches=batch_sizes(batches), **options)
    wanted = _fractions(sparsities, "--sparsities")
    target = output or Path("artifacts") / f"{model.stem}-sweep"
    from recprune_export.console import print_sweep, tell_trial
    from recprune_export.jobs import sweep as run
    from recprune_export.progress import quiet as silently

    source = _source(factory, factory_args, inputs, unsafe_unpickle)
    with silently(quiet or as_json):
        found = run(
            model, target=target, data=data, labels=labels, sparsities=wanted, settings=settings, source=source,
            tell=tell_trial,
        )  # fmt: skip
    print_sweep(found, target, str(model), as_json=as_json)


@main.command()
@click.argument("bundle", type=FILE)
@click.option("--data", type=FILE, required=True, help="CSV, Parquet or NPZ with new rows.")
@click.option("--label", "labels", multiple=True, metavar="COLUMN", help="[default: as when the bundle was made]")
@click.option(
    "--model", type=FILE, help="The dense model, or its successor.  [default: the file the bundle was made of]"
)
@_source_options
@click.option(
    "--max-drop", type=click.FloatRange(0), default=0.002, show_default=True, help="Further below the dense model."
)
@click.option(
    "--max-fall", type=click.FloatRange(0), default=0.01, show_default=True, help="Below the metric that was recorded."
)
@click.option("--check-only", is_flag=True, help="Do not compress again; exit code 1 where the plan does not hold.")
@click.option("-o", "--output", type=FILE, help="Directory of the new bundle.  [default: BUNDLE-refreshed]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def refresh(
    bundle: Path,
    data: Path,
    labels: tuple[str, ...],
    model: Path | None,
    factory_args: str | None,
    max_drop: float,
    max_fall: float,
    check_only: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **source: Any,
) -> None:
    """Say whether the plan of BUNDLE still holds on new rows, and compress the dense model again where it does not.

    Judged are the metric, its distance from the dense model, the drift of ids, numbers and labels, and whether the score
    would still keep what the plan keeps.
    """
    from recprune_export.bundle.write import check_target
    from recprune_export.console import print_examination, print_refresh_json, print_result
    from recprune_export.progress import quiet as silently
    from recprune_export.refresh.examination import examine, recompress

    source["factory_args"] = _json_object(factory_args)
    target = output or bundle.with_name(f"{bundle.resolve().name}-refreshed")
    if not check_only:
        check_target(target)
    with silently(quiet or as_json):
        found, result = examine(
            bundle, data, labels=labels, model=model, source=source, max_drop=max_drop, max_fall=max_fall
        ), None  # fmt: skip
        if not as_json:
            print_examination(found)
        try:
            if not (found.holds or check_only):
                result = recompress(found, target, sys.argv[1:])
        finally:
            if as_json:
                print_refresh_json(found, result)
    if result is None:
        found.raise_verdict()
    elif not as_json:
        print_result(result, as_json=False)


@main.command()
@click.option("--data", type=FILE, required=True, help="CSV or Parquet.")
@click.option(
    "--recommender", default="dlrm", show_default=True, help="two_tower, neumf, deepfm, dlrm, dcn_v2, mmoe, sasrec."
)
@_data_options
@click.option("--dim", type=click.IntRange(1), help="Embedding dimensions.  [default: the recommender's own]")
@click.option("--hidden", metavar="256,128", help="Widths of the hidden layers.  [default: the recommender's own]")
@click.option("--epochs", type=click.IntRange(1), help="At most; training stops early.")
@click.option("--batch-size", type=click.IntRange(1))
@click.option("--learning-rate", type=float)
@click.option("--patience", type=click.IntRange(1), help="Epochs without a better validation metric before it stops.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=FILE, default=Path("model.pt"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def train(data: Path, recommender: str, output: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train one of the reference recommenders on a CSV or Parquet file."""
    from recprune_export.console import print_training
    from recprune_export.data.inference import Wishes
    from recprune_export.progress import quiet as silently
    from recprune_export.training.train import train as run

    given = {name: value for name, value in options.items() if value is not None}
    if "hidden" in given:
        given["hidden"] = _integers(given["hidden"], "--hidden")
    wishes = Wishes(**{name: given[name] for name in WISHES if name in given})
    config: dict[str, Any] = {name: given[name] for name in ("dim", "hidden") if name in given}
    recipe = {name: given[name] for name in RECIPE if name in given}
    with silently(quiet or as_json):
        result = run(data, recommender, output, wishes, config, **recipe)
    print_training(result, as_json=as_json)


def _source(
    factory: str | None, factory_args: str | None, inputs: Path | None, unsafe_unpickle: bool
) -> dict[str, Any]:
    """How a model file is opened: the keywords of `load_program`."""
    return {
        "factory": factory,
        "factory_args": _json_object(factory_args),
        "inputs": inputs,
        "unsafe_unpickle": unsafe_unpickle,
    }


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not JSON.", param_hint="--factory-args") from error
    if not isinstance(values, dict):
        raise click.BadParameter("Write an object of keyword arguments.", param_hint="--factory-args")
    return values


def _fractions(text: str, option: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(
            f"'{text}' is no list of numbers; write for example 0.5,0.7.", param_hint=option
        ) from error
    if not values or not all(0.0 <= value < 1.0 for value in values):
        raise click.BadParameter("Each must lie in [0, 1).", param_hint=option)
    return values


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(
            f"'{text}' is no list of numbers; write for example 256,128.", param_hint=option
        ) from error


@main.command()
@click.option("--rows", type=click.IntRange(1), default=60_000, show_default=True)
@click.option("--kind", type=click.Choice(["clicks", "sequences"]), default="clicks", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=FILE, required=True, help="A .parquet or .csv file.")
def generate(rows: int, kind: str, seed: int, output: Path) -> None:
    """Write a generated data set: power-law ids, learnable, to try things on."""
    from recprune_export.data.generate import generate_clicks, generate_sequences

    {"clicks": generate_clicks, "sequences": generate_sequences}[kind](output, rows, seed)
    click.echo(f"Wrote {rows} generated rows to {output}.")


@main.command()
@_loading_options
@click.option("--batches", default="1,32,256,1024", show_default=True, help="For a bundle: batch sizes of its costs.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="For a bundle: of the machine.")
@click.option("--scores", is_flag=True, help="Also rank the channels of each group by every score, and compare.")
@click.option("--data", type=FILE, help="For --scores: rows; without, requests are drawn from the signature.")
@click.option("--label", "labels", multiple=True, metavar="COLUMN", help="For models that are not our checkpoints.")
@click.option("--plot", type=FILE, metavar="SVG", help="Of --scores: loss over width.  [default: MODEL.losses.svg]")
@click.option("--fields", is_flag=True, help="Also say which whole fields can go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect(
    model: Path,
    batches: str,
    threads: int,
    scores: bool,
    data: Path | None,
    labels: tuple[str, ...],
    plot: Path | None,
    fields: bool,
    as_json: bool,
    factory_args: str | None,
    **source: Any,
) -> None:
    """Show inputs, parameters, channel groups, and what is frozen and why.

    For a bundle or an .onnx file: parameters, operations and bytes of a request, and the floor of this machine.
    """
    from recprune_export.bundle.artifact import is_artifact

    if not scores and (data or plot):
        raise click.UsageError("--data and --plot belong to --scores: give that as well.")
    if is_artifact(model):
        if scores:
            raise click.UsageError("--scores needs the dense model that the bundle was made of.")
        from recprune_export.bundle.artifact import inspect_artifact
        from recprune_export.console import print_artifact
        from recprune_export.settings import batch_sizes

        return print_artifact(inspect_artifact(model, batch_sizes(batches), threads), as_json=as_json)
    from recprune_export.console import print_inspection
    from recprune_export.inspection import inspect_file

    source["factory_args"] = _json_object(factory_args)
    inspection = inspect_file(model, fields=fields, **source)
    if not scores:
        return print_inspection(inspection, as_json=as_json)
    from recprune_export.console import print_scores
    from recprune_export.jobs import sensitivity_of

    found = sensitivity_of(model, data=data, labels=labels, source=source)
    print_scores(inspection, found, as_json=as_json)
    _draw_losses(found, model, plot)


def _draw_losses(found: Any, model: Path, wanted: Path | None) -> None:
    """Draw where the user says; without a word beside the model, where that can be done."""
    from recprune_export.errors import UsageError
    from recprune_export.plots import draw_losses

    path = wanted or model.with_suffix(".losses.svg")
    try:
        draw_losses(found, path, f"{model.name}: what output error says is lost at smaller widths")
    except UsageError as error:
        if wanted is not None:
            raise
        click.echo(f"Note: no plot was drawn. {error}", err=True)
    else:
        click.echo(f"Plot: {path}", err=True)


@main.command()
@click.argument("bundle", type=FILE)
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Rows of the request.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--nodes", type=click.IntRange(1), default=15, show_default=True, help="How many nodes to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, of all nodes, instead of a table.")
def profile(bundle: Path, batch: int, threads: int, nodes: int, as_json: bool) -> None:
    """Name the nodes of a bundle or an .onnx file on which ONNX Runtime spends its time."""
    from recprune_export.bundle.artifact import profile_artifact
    from recprune_export.console import print_profile

    print_profile(profile_artifact(bundle, batch, threads), nodes, as_json=as_json)


@main.command()
@click.argument("bundle", type=FILE)
@click.option("--latency", is_flag=True, help="Measure latency, load time and memory again, on this machine.")
@click.option("--batches", default="1,32,256", show_default=True, help="Batch sizes of the latency measurement.")
@click.option("--threads", default="1,all", show_default=True, help="Thread counts of the latency measurement.")
@click.option("--qps", type=click.FloatRange(0, min_open=True), help="Also let so many requests a second arrive.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=4.0, show_default=True, help="For each batch size."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def verify(
    bundle: Path,
    latency: bool,
    batches: str,
    threads: str,
    qps: float | None,
    seconds: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a bundle: checksums, schema, golden answers. Needs ONNX Runtime alone."""
    from recprune_export.bundle.verify import verify as run
    from recprune_export.console import print_verification
    from recprune_export.settings import batch_sizes, thread_counts

    sizes, counts = batch_sizes(batches), thread_counts(threads)
    verification, study = run(bundle), None
    if latency:
        from recprune_export.bundle.latency import measure_bundle
        from recprune_export.progress import quiet as silently

        with silently(quiet or as_json):
            study = measure_bundle(bundle, batches=sizes, threads=counts, qps=qps, seconds=seconds)
    print_verification(verification, study, as_json=as_json)


@main.command()
@click.argument("new", type=FILE)
@click.option("--against", "base", type=FILE, metavar="BASE", help="The artifact that NEW is to replace.")
@click.option("--calibrate", is_flag=True, help="Tell the smallest regression that this machine can resolve.")
@click.option("--max-regression", default="5%", show_default=True, help="Of latency, counts and sizes.")
@click.option("--max-drop", type=float, default=0.001, show_default=True, help="Of each quality metric.")
@click.option("--limit", "limits", multiple=True, metavar="GATE=5%|off", help="Of one gate; may be repeated.")
@click.option("--batches", default="1,32,256", show_default=True, help="Batch sizes of the latency measurement.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the latency measurement.")
@click.option(
    "--time-limit", type=click.FloatRange(0), default=40.0, show_default=True, help="Seconds of latency measurement."
)
@click.option("--undecided", type=click.Choice(["fail", "pass"]), help="What it counts for.  [default: exit code 5]")
@click.option("--junit", "junit_file", type=FILE, help="Write JUnit XML.")
@click.option("--markdown", "markdown_file", type=FILE, help="Write Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def check(
    new: Path,
    base: Path | None,
    calibrate: bool,
    max_regression: str,
    max_drop: float,
    limits: tuple[str, ...],
    batches: str,
    threads: int,
    time_limit: float,
    undecided: str | None,
    junit_file: Path | None,
    markdown_file: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare NEW with BASE, as a gate in CI: latency, sizes, quality, signature. Needs ONNX Runtime alone.

    Both are bundles, or plain .onnx files, of which only what can be known is judged. Exit code 0: no regression;
    1: a regression; 5: the measurements leave it open. In GitHub Actions the step summary gets the Markdown.
    """
    from recprune_export.console import print_calibration, print_check
    from recprune_export.gate.limits import Limits, fraction, gate_limits
    from recprune_export.progress import quiet as silently
    from recprune_export.settings import batch_sizes

    if calibrate == (base is not None):
        raise click.UsageError("Give --against BASE to compare, or --calibrate to try the machine.")
    tolerance = fraction(max_regression, "--max-regression")
    given = Limits(tolerance, max_drop, gate_limits(limits))
    measured: dict[str, Any] = {"batches": batch_sizes(batches), "threads": threads, "time_limit": time_limit}
    if base is None:
        from recprune_export.gate.calibration import calibrate as try_machine

        with silently(quiet or as_json):
            calibration = try_machine(new, tolerance=given.of("latency"), **measured)
        return print_calibration(calibration, as_json=as_json)
    from recprune_export.gate.check import check as run
    from recprune_export.gate.findings import Verdict
    from recprune_export.gate.junit import write_junit
    from recprune_export.gate.markdown import write_markdown

    with silently(quiet or as_json):
        checked = run(new, base, given, undecided=Verdict(undecided or "undecided"), **measured)
    print_check(checked, as_json=as_json)
    if junit_file is not None:
        write_junit(checked, junit_file)
    write_markdown(checked, markdown_file)
    checked.raise_verdict()
