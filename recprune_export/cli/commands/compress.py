"""`compress`: the main job."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.input_paths import DATA, PLAN, PRIVATE_KEY, ROWS_OR_ARRAYS, VOCABULARY
from recprune_export.cli.job_file import config_option, format_job
from recprune_export.cli.loss_advice import make_loss_advice
from recprune_export.cli.main_group import main
from recprune_export.cli.option_groups import GroupedCommand
from recprune_export.cli.options import FILE, job_options, loading_options, reading_options, streaming_options
from recprune_export.cli.parse_values import model_source, parse_names
from recprune_export.cli.screen_options import screen_options, verbose_option
from recprune_export.cli.show_import import PYTORCH, show_import
from recprune_export.cli.tables import echo
from recprune_export.errors import UsageError
from recprune_export.number_formats import format_bytes
from recprune_export.runtime_releases import OPERATORS
from recprune_export.settings import BAD_IDS, MINIMIZE

if TYPE_CHECKING:
    from recprune_export.settings import Settings


@main.command(cls=GroupedCommand)
@loading_options
@click.option(
    "--sparsity",
    type=float,
    default=0.7,
    show_default=True,
    help="Fraction of the parameters to remove or set to zero.",
)
@click.option("--embedding-sparsity", type=float, help="Sparsity of the embedding tables only.")
@click.option("--hidden-sparsity", type=float, help="Sparsity of all other parameters.")
@click.option(
    "--max-bytes",
    metavar="SIZE",
    help="Instead of a sparsity: the largest size of the file, such as 20MB, 500kB, or 10% of the dense file. Embedding dimensions, "
    "hidden widths and bits are chosen together for the least predicted loss.",
)
@click.option(
    "--prune-fields",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Remove the N least important fields first. Their inputs remain and are ignored.",
)
@click.option(
    "--prune-rows",
    metavar="SHARE|auto",
    help="Fraction of ids, the rarest in --data, that share one row of their table.",
)
@click.option(
    "--width-multiple", type=int, default=16, show_default=True, help="Keep hidden widths at a multiple of this number."
)
@click.option(
    "--regularize",
    type=float,
    default=0.0,
    metavar="STRENGTH",
    help="Train with a group lasso first, so that channels are zero before they are removed. Takes as long as fine-tuning; try 1.",
)
@click.option("--plan", "plan_file", type=PLAN, help="Apply this plan.json instead of computing a plan.")
@click.option("--plan-only", is_flag=True, help="Print the plan as JSON and exit; nothing is written.")
@click.option(
    "--sparsity-schedule",
    type=click.Choice(["gradual", "one-shot"]),
    default="gradual",
    show_default=True,
    help="Set weights to zero gradually over the first half of fine-tuning, or all at once before it.",
)
@click.option(
    "--data",
    type=ROWS_OR_ARRAYS,
    help="Rows for fine-tuning and evaluation: CSV or Parquet (a file, a folder, a glob, s3://...), or NPZ.",
)
@click.option(
    "--pruning-stages", type=int, default=1, show_default=True, help="Number of rounds of pruning and fine-tuning."
)
@job_options
@reading_options
@streaming_options
@click.option(
    "--shared-inputs", default="", metavar="NAME,...", help="Inputs with one value for all candidates of a request."
)
@click.option(
    "--bad-ids",
    type=click.Choice(BAD_IDS),
    default="unknown",
    show_default=True,
    help="How to treat ids outside their table: as unknown values, or as an error.",
)
@click.option(
    "--padded",
    type=int,
    metavar="N",
    help="For jagged inputs: use a matrix of N columns, padded with -1, instead of values with lengths or offsets.",
)
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX operator set version of the files.")
@click.option(
    "--runtime-min",
    metavar="RELEASE",
    help="Oldest ONNX Runtime release that must load the files, such as 1.18.  [default: any; the bundle states the release it requires]",
)
@click.option(
    "--operators",
    type=click.Choice(OPERATORS),
    default="all",
    show_default=True,
    help="all: use com.microsoft operators where they are faster. onnx: standard operators only, for OpenVINO and other runtimes.",
)
@click.option(
    "--top-k",
    type=int,
    metavar="K",
    help="Also write model.top_k.onnx, which returns the K best items and their scores, or with --shared-inputs the K best candidates.",
)
@click.option(
    "--item-ids",
    type=DATA,
    metavar="FILE",
    help="For --top-k: CSV or Parquet with your item `id` for each `column` of the scores.  "
    "[default: the vocabulary, otherwise column numbers]",
)
@click.option("--exclude-seen", is_flag=True, help="For --top-k: exclude items of the history.")
@click.option(
    "--max-drop",
    type=float,
    metavar="DROP",
    help="Search for the smallest file, within --max-bytes if given, whose metric drops by at most this much.",
)
@click.option(
    "--minimize",
    type=click.Choice(MINIMIZE),
    default="bytes",
    show_default=True,
    help="Quantity that --max-drop minimizes. latency searches for the largest sparsity, starting at --sparsity.",
)
@click.option(
    "--target-speedup",
    type=float,
    metavar="TIMES",
    help="Search for the smallest sparsity at which the file is this many times as fast as the dense file.",
)
@click.option(
    "--target-latency",
    metavar="0.5ms@256",
    help="Search for the smallest sparsity at which a request of 256 rows takes 0.5 ms on this machine. "
    "Separate several by commas; units ms or us.",
)
@click.option(
    "--target-batch-sizes",
    metavar="1,256",
    help="Batch sizes whose mean speed-up must reach the target.  [default: --latency-batch-sizes]",
)
@click.option(
    "--undecided",
    type=click.Choice(["pass", "fail"]),
    help="How a search treats inconclusive trials.  [default: exit code 5 if no trial is conclusive]",
)
@click.option(
    "--raw-inputs", is_flag=True, help="Also write model.raw.onnx, which takes raw values. For checkpoints of `train`."
)
@click.option(
    "--vocabulary",
    "vocabularies",
    type=VOCABULARY,
    multiple=True,
    metavar="INPUT=FILE",
    help="Also write model.raw.onnx, with this vocabulary of the input: CSV or Parquet with the columns raw and id. May be repeated.",
)
@click.option(
    "--calibration-rows",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Keep N encoded training rows in the bundle, from which `reapply` computes statistics without --data.",
)
@click.option("--no-dense", is_flag=True, help="Do not write dense.onnx, the baseline, into the bundle.")
@click.option("--no-triton", "triton", flag_value=False, default=True, help="Do not write a Triton model repository.")
@click.option(
    "--max-batch",
    type=int,
    default=4096,
    show_default=True,
    help="Largest batch that a server forms or accepts.",
)
@click.option("--mlflow", type=FILE, metavar="DIR", help="Also write model.onnx as an MLflow model to this folder.")
@click.option(
    "--shards",
    type=FILE,
    metavar="DIR",
    help="Also write the pruned weights as a torch.distributed.checkpoint folder, for further training.",
)
@click.option("--license", metavar="SPDX-ID", help="License of the bundle.  [default: not stated]")
@click.option("--sign", type=PRIVATE_KEY, metavar="KEY.PEM", help="Sign the manifest with this Ed25519 key.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that run the trials of --max-drop."
)
@click.option("-o", "--output", type=FILE, help="Directory of the bundle.  [default: artifacts/<name of MODEL>]")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the options, the model and the data, print what would be removed, and write nothing.",
)
@click.option(
    "--resume", is_flag=True, help="Continue an interrupted run of the same command after its last finished stage."
)
@config_option
@verbose_option
@screen_options()
@click.pass_context
def compress(
    context: click.Context,
    model: Path,
    factory: str | None,
    factory_args: str | None,
    inputs: Path | None,
    unsafe_unpickle: bool,
    key: str | None,
    plan_file: Path | None,
    plan_only: bool,
    data: Path | None,
    labels: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    verbose: bool,
    latency_batch_sizes: str,
    target_batch_sizes: str | None,
    outputs: str,
    shared_inputs: str,
    item_ids: Path | None,
    no_dense: bool,
    mlflow: Path | None,
    shards: Path | None,
    prune_rows: str | None,
    dry_run: bool,
    resume: bool,
    jobs: int,
    sign: Path | None,
    **options: Any,
) -> None:
    """Prune, fine-tune, export and validate MODEL; write a bundle.

    MODEL is a checkpoint of `recprune-export train`, a .pt2 program or an ONNX file. With --factory, it is a file of weights: a state
    dict, a training checkpoint, safetensors, or a torch.distributed.checkpoint folder. It can also be a Hugging Face or MLflow folder,
    TorchScript, or a pickled nn.Module with --unsafe-unpickle. All except the first three require --inputs.
    """
    from recprune_export.settings import Settings, parse_batch_sizes, parse_row_fraction

    settings = Settings(
        latency_batch_sizes=parse_batch_sizes(latency_batch_sizes),
        target_batch_sizes=parse_batch_sizes(target_batch_sizes, "--target-batch-sizes")
        if target_batch_sizes
        else None,
        outputs=parse_names(outputs),
        shared_inputs=parse_names(shared_inputs),
        item_ids=None if item_ids is None else str(item_ids),
        keep_dense=not no_dense,
        prune_rows=None if prune_rows is None else parse_row_fraction(prune_rows),
        **options,
    )
    refuse_sparsity(context, settings)
    if dry_run and plan_only:
        raise UsageError("--dry-run prints the plan as a table, and --plan-only as JSON: leave out one of them.")
    if mlflow is not None:
        from recprune_export.bundle.servers.mlflow_model import check_mlflow_target, write_mlflow_model

        check_mlflow_target(mlflow)
    with show_import(PYTORCH):
        from recprune_export.api import compress as run
        from recprune_export.api import dump_plan, preview
        from recprune_export.cli.compression_tables import print_result
        from recprune_export.cli.plan_tables import print_preview

    if shards is not None:
        from recprune_export.program.streamed_tables._write_shards import check_shards_folder

        check_shards_folder(shards)
    source = model_source(factory, factory_args, inputs, unsafe_unpickle, key)
    if plan_only:
        plan = dump_plan(model, data=data, labels=labels, settings=settings, source=source)
        click.echo(plan)
        print_planned_point(plan)
        return
    if dry_run:
        planned = preview(
            model,
            target=output,
            data=data,
            labels=labels,
            settings=settings,
            plan=plan_file,
            source=source,
            sign=sign,
            jobs=jobs,
        )
        return print_preview(planned, as_json=as_json)
    result = run(
        model,
        target=output,
        data=data,
        labels=labels,
        settings=settings,
        plan=plan_file,
        source=source,
        command=sys.argv[1:],
        resume=resume,
        job_file=format_job(context),
        jobs=jobs,
        sign=sign,
    )
    if mlflow is not None:
        write_mlflow_model(result.target, mlflow)
    if shards is not None:
        write_bundle_shards(result.target, shards)
    print_result(result, as_json=as_json, verbose=verbose, advice=make_loss_advice(context, result))


def write_bundle_shards(bundle: Path, folder: Path) -> None:
    """Write the weights of the program of a bundle to `folder`, in shards."""
    from recprune_export.bundle.manifest.manifest import PROGRAM
    from recprune_export.program.program import Program
    from recprune_export.program.streamed_tables._write_shards import write_shards

    program = Program.load(bundle / PROGRAM)
    write_shards({name: tensor.detach() for name, tensor in program.parameters().items()}, folder)


def print_planned_point(plan: str) -> None:
    """Print the chosen size and its neighbors to standard error if the plan, given as JSON, has a storage plan."""
    import json

    from recprune_export.bundle.storage_summary import describe_bits, describe_point
    from recprune_export.pruning.storage_plan import StoragePlan

    storage = json.loads(plan).get("storage")
    if storage is not None:
        planned = StoragePlan.from_dict(storage)
        size = format_bytes(planned.point.bytes)
        echo(f"Bytes: {size}, {describe_point(planned)}; {describe_bits(planned)}", err=True)


def refuse_sparsity(context: click.Context, settings: "Settings") -> None:
    """Raise `UsageError` if `--sparsity` is given together with a budget that determines the sparsity."""
    if context.get_parameter_source("sparsity") is click.core.ParameterSource.DEFAULT:
        return
    if settings.pruning.max_bytes is not None:
        raise UsageError("--max-bytes determines how much is removed: leave out --sparsity.")
    search = settings.search
    if search.max_drop is not None and not search.has_speed_target and search.minimize == "bytes":
        raise UsageError(
            "--max-drop searches for the smallest file: leave out --sparsity, or give --minimize latency to start the search at --sparsity."
        )
