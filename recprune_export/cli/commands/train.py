"""`train`: train a reference recommender."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.headline import print_line
from recprune_export.cli.input_paths import ROWS
from recprune_export.cli.job_file import config_option
from recprune_export.cli.main_group import main
from recprune_export.cli.option_groups import GroupedCommand
from recprune_export.cli.options import FILE, data_options, seed_option, streaming_options
from recprune_export.cli.parse_values import parse_integers
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.show_import import PYTORCH, show_import
from recprune_export.cli.tables import (
    make_console,
    make_table,
    print_json,
    print_notes,
    prints_after_work,
    quote_for_shell,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from recprune_export.data.schema.column_summary import ColumnSummary
    from recprune_export.data.streaming.data_files import DataFile
    from recprune_export.training._train import TrainingResult


TRAINING_OVERRIDES = (
    "labels",
    "weight",
    "missing_label",
    "categorical",
    "numeric",
    "multi_valued",
    "ignore",
    "split",
    "split_by_time",
    "split_by_user",
    "sequence",
    "max_length",
    "missing",
    "separator",
    "encoding",
    "seed",
)
FIT_OPTIONS = ("epochs", "batch_size", "learning_rate", "patience", "seed", "stream", "readers")


@main.command(cls=GroupedCommand)
@click.option("--data", type=ROWS, required=True, help="CSV or Parquet: a file, a folder, a glob, s3://...")
@click.option(
    "--recommender", default="dlrm", show_default=True, help="two_tower, neumf, deepfm, dlrm, dcn_v2, mmoe or sasrec."
)
@data_options
@click.option("--dim", type=click.IntRange(1), help="Embedding dimension.  [default: depends on the recommender]")
@click.option("--hidden", metavar="256,128", help="Widths of the hidden layers.  [default: depends on the recommender]")
@click.option("--epochs", type=click.IntRange(1), help="Largest number of epochs; training may stop early.")
@click.option("--batch-size", type=click.IntRange(1), help="Rows of a step.  [default: depends on the kind of model]")
@click.option("--learning-rate", type=float, help="Learning rate of Adam.  [default: depends on the kind of model]")
@click.option(
    "--patience",
    type=click.IntRange(1),
    help="Epochs without improvement of the validation metric before training stops.",
)
@seed_option
@streaming_options
@click.option("-o", "--output", type=FILE, default=Path("model.pt"), show_default=True, help="The checkpoint to write.")
@config_option
@screen_options()
def train(data: "DataFile", recommender: str, output: Path, as_json: bool, **options: Any) -> None:
    """Train a reference recommender on CSV or Parquet files."""
    from recprune_export.recommenders.recommender_names import check_recommender_name

    check_recommender_name(recommender)
    from recprune_export.data.schema._infer_schema import SchemaOverrides
    from recprune_export.settings import EvaluationSettings

    with show_import(PYTORCH):
        from recprune_export.training._train import train as run

    options = {name: value for name, value in options.items() if value is not None}
    if "hidden" in options:
        options["hidden"] = parse_integers(options["hidden"], "--hidden")
    evaluation = EvaluationSettings(options["metrics"], options.get("group"))
    overrides = SchemaOverrides(**{name: options[name] for name in TRAINING_OVERRIDES if name in options})
    config: dict[str, Any] = {name: options[name] for name in ("dim", "hidden") if name in options}
    fit_options = {name: options[name] for name in FIT_OPTIONS if name in options}
    result = run(data, recommender, output, overrides, config, evaluation, **fit_options)
    print_training(result, data, as_json=as_json)


@prints_after_work
def print_training(training: "TrainingResult", data: "DataFile", *, as_json: bool) -> None:
    """Print the epochs, the test metrics and the checkpoint of a training run on `data`."""
    checkpoint = training.checkpoint
    if as_json:
        values = {
            "output": training.path,
            "recommender": checkpoint.recommender,
            "parameters": training.parameters,
            "training_rows": training.rows,
            "split_rows": training.sizes,
            "metric": training.metric,
            "epochs": [
                {"training_loss": epoch.loss, "validation_metric": epoch.metric} for epoch in training.fitted.epochs
            ],
            "best_epoch": training.fitted.best + 1,
            "test_metrics": checkpoint.metrics,
            "columns": checkpoint.encoder.summaries,
            "notes": training.notes,
        }
        return print_json(values)
    console = make_console()
    console.print(_make_column_table(checkpoint.encoder.summaries, data))
    print_notes(training.notes)
    console.print(f"Rows: {training.sizes}", highlight=False, soft_wrap=True, markup=False)
    epochs = make_table(
        f"{checkpoint.recommender}, {training.rows:,} training rows",
        "epoch",
        "training loss",
        f"valid {training.metric}",
        "",
    )
    for number, epoch in enumerate(training.fitted.epochs):
        mark = "kept" if number == training.fitted.best else ""
        epochs.add_row(str(number + 1), f"{epoch.loss:.4f}", f"{epoch.metric:.4f}", mark)
    console.print(epochs)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in checkpoint.metrics.items())
    console.print(f"Test: {metrics or 'no metric is defined on the test rows'}", highlight=False)
    console.print(f"{training.parameters:,} parameters in {training.path}", highlight=False, soft_wrap=True)
    bundle = quote_for_shell(Path("artifacts") / training.path.stem)
    arguments = f"{quote_for_shell(training.path)} --sparsity 0.7 --data {quote_for_shell(data)} -o {bundle}"
    print_line("Next", f"recprune-export {arguments}")


def _make_column_table(columns: "Sequence[ColumnSummary]", data: "DataFile") -> "Table":
    table = make_table(f"Columns of {Path(data).name}", "column", "in the file", "role", "values", "missing", "")
    for column in columns:
        values = (
            f"{column.values:,}"
            if column.values is not None
            else ""
            if column.low is None
            else f"{column.low:g} to {column.high:g}"
        )
        missing = f"{column.missing:.1%}" if column.missing else ""
        table.add_row(column.name, column.dtype, column.role, values, missing, column.note)
    return table
