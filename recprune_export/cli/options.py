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
                "--factory", metavar="PACKAGE.MODULE:FUNCTION", help="Makes the module that takes the weights of MODEL."
            ),
            click.option("--factory-args", metavar="JSON", help="Keyword arguments of the factory."),
            click.option(
                "--inputs",
                type=REQUEST,
                metavar="NPZ",
                help="An example request, for all but programs and checkpoints.",
            ),
            click.option(
                "--key",
                metavar="NAME",
                help="Which state dict, or module of a pickle, is taken where several fit: ema, state_dict.teacher.",
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


def outputs_option(command: F) -> F:
    """Add the option that chooses the outputs that are served."""
    return click.option(
        "--outputs",
        default="",
        metavar="NAME,...",
        help="Serve these outputs alone; what only the others need is removed before the analysis.  [default: all]",
    )(command)


def label_options(command: F) -> F:
    """Add the options that say how labels and weights of rows are read."""
    for option in (
        click.option("--missing-label", metavar="VALUE", help="A value that stands for a missing label."),
        click.option("--weight", metavar="COLUMN", help="The weight of each row in loss and metrics, 0 or more."),
    ):
        command = option(command)
    return command


def metric_options(command: F) -> F:
    """Add the options that choose the metrics."""
    for option in (
        click.option(
            "--group", metavar="COLUMN", help="The column over whose values gauc is a mean, such as the user's."
        ),
        click.option(
            "--metric",
            "metrics",
            multiple=True,
            metavar="NAME",
            help="auc, logloss, pr-auc, gauc, ece, accuracy; rmse, mae; ndcg@K, hr@K, recall@K, mrr. May be repeated: the first "
            "decides, all are reported.  [default: by the kind of label]",
        ),
    ):
        command = option(command)
    return command


def undecided_option(command: F) -> F:
    """Add the option of what the verdict counts for where rows or measurements cannot tell."""
    choice = click.Choice(["fail", "pass"])
    return click.option("--undecided", type=choice, help="What it counts for.  [default: exit code 5]")(command)


SPLIT_OPTIONS = ("split", "split_by_time", "split_by_user")


def split_options(command: F) -> F:
    """Add the options that name the column by which rows are split."""
    for option in reversed(
        (
            click.option(
                "--split",
                metavar="COLUMN",
                help="Holds train, valid or test for each row.  [default: a column called split; else at random]",
            ),
            click.option(
                "--split-by-time",
                metavar="COLUMN",
                help="Numbers, dates or times: the last tenth of the rows is test, the tenth before valid.",
            ),
            click.option(
                "--split-by-user",
                metavar="COLUMN",
                help="All rows of a user are on one side: a tenth of the users is test, a tenth valid.",
            ),
        )
    ):
        command = option(command)
    return command


def job_options(command: F) -> F:
    """Add the options of one run of the main job, and of each in a sweep."""
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
                help="Which channels go first.",
            ),
            click.option(
                "--label", "labels", multiple=True, metavar="COLUMN", help="For models that are not our checkpoints."
            ),
            label_options,
            metric_options,
            click.option("--epochs", type=click.IntRange(0), help="Of fine-tuning.  [default: by the kind of model]"),
            click.option("--learning-rate", type=float, help="[default: by the kind of model]"),
            click.option(
                "--batch-size", type=click.IntRange(1), help="Of fine-tuning.  [default: by the kind of model]"
            ),
            click.option(
                "--structured-fraction",
                type=float,
                help="Fraction for removed channels; zeros take the rest.  [default: tried; at most 0.8 in tables, 0.95 elsewhere]",
            ),
            click.option(
                "--quantize",
                type=click.Choice(QUANTIZE),
                default="none",
                show_default=True,
                help="Store tables in fewer bits; int8 and int4: multiply in int8 where that is measured to be faster.",
            ),
            click.option(
                "--max-quantize-drop",
                type=float,
                default=0.001,
                show_default=True,
                metavar="DROP",
                help="Drop of the validation metric that is allowed; beyond it weights get more bits again.",
            ),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option(
                "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the latency measurement."
            ),
            click.option(
                "--latency-batch-sizes",
                default="1,32,256,1024",
                show_default=True,
                help="Batch sizes of the latency measurement.",
            ),
            click.option(
                "--quick",
                is_flag=True,
                help="Measure latency at one batch size; no cold starts, no report page: for notebooks and CI.",
            ),
        )
    ):
        command = option(command)
    return command


def csv_options(command: F) -> F:
    """Add the options of how a CSV file is written."""
    for option in reversed(
        (
            click.option(
                "--separator", metavar="CHARACTER", help="Between the fields of a CSV file.  [default: detected]"
            ),
            click.option("--encoding", metavar="NAME", help="Of a CSV file, such as utf-16.  [default: detected]"),
        )
    ):
        command = option(command)
    return command


def reading_options(command: F) -> F:
    """Add the options of reading rows for a model that was trained before."""
    command = click.option(
        "--allow-unknown", is_flag=True, help="Accept rows of which nearly all ids are unknown to the model."
    )(command)
    return csv_options(command)


def data_options(command: F) -> F:
    command = split_options(command)
    for option in reversed(
        (
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="COLUMN",
                help="A column of 0 and 1, or of numbers; may be repeated.",
            ),
            label_options,
            metric_options,
            click.option(
                "--ignore", multiple=True, metavar="COLUMN", help="A column that is not read; may be repeated."
            ),
            click.option("--categorical", multiple=True, metavar="COLUMN", help="Read as a categorical field."),
            click.option("--numeric", multiple=True, metavar="COLUMN", help="Read as a numeric field."),
            click.option(
                "--multi-valued", multiple=True, metavar="COLUMN:SEPARATOR", help="Several values in one string."
            ),
            click.option(
                "--missing",
                multiple=True,
                metavar="WORD",
                help="A word for a missing value, beside NA, null, -, ...; may be repeated.",
            ),
            click.option("--sequence", metavar="USER,ITEM,ORDER", help="Columns of a log of user actions."),
            click.option(
                "--max-length", type=click.IntRange(1), help="Items of a history that are used.  [default: 50]"
            ),
        )
    ):
        command = option(command)
    return csv_options(command)
