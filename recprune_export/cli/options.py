"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from recprune_export.cli.input_paths import MODEL, REQUEST
from recprune_export.settings import QUANTIZE

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def loading_options(command: F) -> F:
    return click.argument("model", type=MODEL)(source_options(command))


def source_options(command: F) -> F:
    for option in reversed(
        (
            click.option(
                "--factory",
                metavar="PACKAGE.MODULE:FUNCTION",
                help="Function or class that builds the module into which the weights of MODEL are loaded. Its arguments come from "
                "--factory-args, otherwise from the hyper_parameters in a checkpoint of Lightning.",
            ),
            click.option("--factory-args", metavar="JSON", help="Keyword arguments of the factory, as a JSON object."),
            click.option(
                "--inputs",
                type=REQUEST,
                metavar="NPZ",
                help="An example request: an array for each parameter of forward (numpy.savez). Required unless MODEL is a .pt2 "
                "program, an ONNX file or a checkpoint of `train`.",
            ),
            click.option(
                "--key",
                metavar="NAME",
                help="Name of the state dict or module to load if the file has several, such as ema or state_dict.teacher.",
            ),
            click.option(
                "--unsafe-unpickle",
                is_flag=True,
                help="Load a pickled nn.Module. This executes any code that the file contains.",
            ),
        )
    ):
        command = option(command)
    return command


def outputs_option(command: F) -> F:
    """Add the option that selects the outputs to serve."""
    return click.option(
        "--outputs",
        default="",
        metavar="NAME,...",
        help="Outputs to serve. Parts of the model that only other outputs need are removed.  [default: all]",
    )(command)


def infer_rules_option(command: F) -> F:
    """Add the option that infers missing channel rules."""
    return click.option(
        "--infer-rules",
        is_flag=True,
        help="Find out by trial which channels of an operator without a rule can be removed; otherwise none of them are.",
    )(command)


def label_options(command: F) -> F:
    """Add the options for the labels and weights of rows."""
    for option in (
        click.option("--missing-label", metavar="VALUE", help="Value that marks a missing label."),
        click.option(
            "--weight", metavar="COLUMN", help="Column with the weight of each row in losses and metrics (nonnegative)."
        ),
    ):
        command = option(command)
    return command


def metric_options(command: F) -> F:
    """Add the options that choose the metrics."""
    for option in (
        click.option("--group", metavar="COLUMN", help="Column over whose values gauc is averaged, such as the user."),
        click.option(
            "--metric",
            "metrics",
            multiple=True,
            metavar="NAME",
            callback=_check_metrics,
            help="auc, logloss, pr-auc, gauc, ece, accuracy; rmse, mae; ndcg@K, hr@K, recall@K, mrr. May be repeated: the first one is "
            "used for decisions, all are reported.  [default: depends on the kind of label]",
        ),
    ):
        command = option(command)
    return command


def undecided_option(command: F) -> F:
    """Add the option for inconclusive verdicts."""
    choice = click.Choice(["pass", "fail"])
    return click.option(
        "--undecided", type=choice, help="How to treat inconclusive measurements.  [default: exit code 5]"
    )(command)


def _check_metrics(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an unknown name of a metric before the modules of the job are imported."""
    if names:
        from recprune_export.metrics.metric_catalogue import check_metric_names

        check_metric_names(names)
    return names


SPLIT_OPTIONS = ("split", "split_by_time", "split_by_user")


def split_options(command: F) -> F:
    """Add the options that name the column by which rows are split."""
    for option in reversed(
        (
            click.option(
                "--split",
                metavar="COLUMN",
                help="Column that assigns each row to train, valid or test.  [default: the column named split, otherwise random]",
            ),
            click.option(
                "--split-by-time",
                metavar="COLUMN",
                help="Split by this column of numbers, dates or times: the last 10% of the rows are test, the 10% before them valid.",
            ),
            click.option(
                "--split-by-user",
                metavar="COLUMN",
                help="Split by this column of user ids: 10% of the users are test, 10% valid.",
            ),
        )
    ):
        command = option(command)
    return command


def seed_option(command: F) -> F:
    """Add the option of the seed."""
    return click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")(command)


def job_options(command: F) -> F:
    """Add the options of one run of the main job, which a sweep shares."""
    from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR, SCORE_DESCRIPTIONS

    command = split_options(command)
    for option in reversed(
        (
            outputs_option,
            click.option(
                "--score",
                type=click.Choice(list(SCORE_DESCRIPTIONS)),
                default=OUTPUT_ERROR,
                show_default=True,
                help="Importance score that ranks the channels.",
            ),
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="COLUMN",
                help="Label column. May be repeated, for a model with several outputs: give the columns the names of the outputs. "
                "Not needed for checkpoints of `train`.",
            ),
            label_options,
            metric_options,
            infer_rules_option,
            click.option(
                "--epochs",
                type=click.IntRange(0),
                help="Largest number of epochs.  [default: depends on the kind of model]",
            ),
            click.option(
                "--learning-rate", type=float, help="Learning rate of Adam.  [default: depends on the kind of model]"
            ),
            click.option(
                "--batch-size", type=click.IntRange(1), help="Rows of a step.  [default: depends on the kind of model]"
            ),
            click.option(
                "--structured-fraction",
                type=float,
                help="Fraction of the sparsity that comes from removed channels; zeroed weights contribute the rest.  "
                "[default: chosen by trials; at most 0.8 in tables, 0.95 elsewhere]",
            ),
            click.option(
                "--quantize",
                type=click.Choice(QUANTIZE),
                default="none",
                show_default=True,
                help="Store tables in fewer bits. int8 and int4 also compute linear layers in int8 where this is measurably faster.",
            ),
            click.option(
                "--max-quantize-drop",
                type=float,
                default=0.001,
                show_default=True,
                metavar="DROP",
                help="Largest allowed drop of the validation metric due to quantization; beyond it, weights are stored in more bits.",
            ),
            seed_option,
            click.option(
                "--threads",
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="Number of threads for the latency measurement.",
            ),
            click.option(
                "--latency-batch-sizes",
                default="1,32,256,1024",
                show_default=True,
                help="Batch sizes for the latency measurement.",
            ),
            click.option(
                "--quick",
                is_flag=True,
                help="Measure latency at one batch size only, and omit cold starts and the report page. For notebooks and CI.",
            ),
        )
    ):
        command = option(command)
    return command


def csv_options(command: F) -> F:
    """Add the options for the format of a CSV file."""
    for option in reversed(
        (
            click.option("--separator", metavar="CHARACTER", help="Separator of a CSV file.  [default: detected]"),
            click.option(
                "--encoding",
                metavar="NAME",
                help="Character encoding of a CSV file, such as utf-16.  [default: detected]",
            ),
        )
    ):
        command = option(command)
    return command


def reading_options(command: F) -> F:
    """Add the options for reading rows for a trained model."""
    command = click.option(
        "--allow-unknown", is_flag=True, help="Accept rows even if nearly all of their ids are unknown to the model."
    )(command)
    return csv_options(command)


def streaming_options(command: F) -> F:
    """Add the options for rows that are kept in files."""
    for option in reversed(
        (
            click.option(
                "--stream/--no-stream",
                default=None,
                help="Keep the encoded rows in temporary files instead of in memory.  [default: only if there are many rows]",
            ),
            click.option(
                "--readers",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="Number of processes that read streamed rows; 0: a thread reads them.",
            ),
        )
    ):
        command = option(command)
    return command


def data_options(command: F) -> F:
    command = split_options(command)
    for option in reversed(
        (
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="COLUMN",
                help="Label column with 0 and 1, or numbers. May be repeated.",
            ),
            label_options,
            metric_options,
            click.option("--ignore", multiple=True, metavar="COLUMN", help="Column to ignore. May be repeated."),
            click.option("--categorical", multiple=True, metavar="COLUMN", help="Read as a categorical field."),
            click.option("--numeric", multiple=True, metavar="COLUMN", help="Read as a numeric field."),
            click.option(
                "--multi-valued",
                multiple=True,
                metavar="COLUMN:SEPARATOR",
                help="Column with several values in one string, and their separator.",
            ),
            click.option(
                "--missing",
                multiple=True,
                metavar="WORD",
                help="String for a missing value, in addition to NA, null, -, ... May be repeated.",
            ),
            click.option(
                "--sequence",
                metavar="USER,ITEM,ORDER",
                help="Columns of an interaction log: user, item and order (time).",
            ),
            click.option(
                "--max-length",
                type=click.IntRange(1),
                help="Number of most recent items of a history to use.  [default: 50]",
            ),
        )
    ):
        command = option(command)
    return csv_options(command)
