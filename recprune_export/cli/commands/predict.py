"""`predict`: score the rows of a file, or of many."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.input_paths import BUNDLE, ROWS
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, reading_options
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.shard_type import SHARD
from recprune_export.cli.show_import import ONNXRUNTIME, show_import
from recprune_export.cli.tables import echo, print_json, print_notes, prints_after_work

if TYPE_CHECKING:
    from recprune_export.prediction._predict import Prediction
    from recprune_export.prediction.predict_folder import FolderPrediction
    from recprune_export.shard import Shard

MOST_NOTES = 5


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--data",
    type=ROWS,
    required=True,
    help="CSV or Parquet: a file, folder, glob or address. Raw values as in training for a model of `train`; for your own model "
    "the ids and numbers of its inputs, as in --data of the main job.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    help="A .parquet or .csv file with the model's outputs, or a folder with a file for each file of --data.",
)
@click.option("--keep", multiple=True, metavar="COLUMN", help="A column of --data to write beside; may be repeated.")
@click.option(
    "--probability", is_flag=True, help="Write probabilities in place of logits; other outputs do not change."
)
@click.option("--batch-size", type=click.IntRange(1), default=4096, show_default=True, help="Rows of a request.")
@click.option("--threads", type=click.IntRange(1), help="Threads of ONNX Runtime.  [default: as the manifest states]")
@click.option("--file", default="model.onnx", show_default=True, help="The ONNX file of the bundle.")
@click.option("--shard", type=SHARD, help="Score only every n-th file, starting at the i-th, into a folder.")
@reading_options
@screen_options()
def predict(
    bundle: Path,
    data: Path | str,
    output: Path,
    keep: tuple[str, ...],
    probability: bool,
    batch_size: int,
    threads: int | None,
    file: str,
    shard: "Shard | None",
    separator: str | None,
    encoding: str | None,
    allow_unknown: bool,
    as_json: bool,
) -> None:
    """Score the rows of CSV or Parquet files with BUNDLE.

    Rows are streamed. ONNX Runtime and polars are required, but not PyTorch. If the output is a folder, a file of the same
    name is written for each file of --data, and an interrupted run can be continued: only new or changed files are scored.
    With --shard, several machines share the files.

    The columns are named after the label: clicked_logit is the logit of the label clicked (its probability is 1 / (1 +
    exp(-logit)), or use --probability), clicked_probability a probability, and stars_prediction a predicted number. An output
    whose meaning is not recorded in the bundle keeps its name.
    """
    with show_import(ONNXRUNTIME):
        from recprune_export.bundle.archive.unpacking import open_bundle_path
        from recprune_export.errors import UsageError
        from recprune_export.prediction._predict import predict as run
        from recprune_export.prediction.predict_folder import predict_folder
        from recprune_export.prediction.write_scores import SUFFIXES
        from recprune_export.settings import DataSettings

    is_file = output.suffix.lower() in SUFFIXES and not output.is_dir()
    if is_file and shard is not None:
        raise UsageError(
            f"--shard divides the work by files, but {output} is one file of scores: give a folder with -o."
        )
    reading = DataSettings(separator, encoding, allow_unknown)
    options: dict[str, Any] = {
        "keep": keep,
        "probability": probability,
        "threads": threads,
        "rows": batch_size,
        "file": file,
    }
    with open_bundle_path(bundle) as folder:
        if is_file:
            prediction = run(folder, data, output, reading=reading, **options)
        else:
            parts = predict_folder(folder, data, output, reading=reading, shard=shard, **options)
    if is_file:
        print_prediction(prediction, as_json=as_json)
    else:
        print_folder_prediction(parts, as_json=as_json)


@prints_after_work
def print_prediction(prediction: "Prediction", *, as_json: bool) -> None:
    """Print the columns, rows and file that were written, and the number of values unknown to the model."""
    if as_json:
        return print_json(prediction.to_dict())
    echo(
        f"Wrote {', '.join(prediction.columns)} of {prediction.rows:,} rows to {prediction.path}, "
        f"{_describe_time(prediction)}"
    )
    _print_meanings(prediction)


@prints_after_work
def print_folder_prediction(prediction: "FolderPrediction", *, as_json: bool) -> None:
    """Print how many files were scored, and how many were finished before."""
    if as_json:
        return print_json(prediction.to_dict())
    made = sum(not part.finished for part in prediction.files)
    finished = len(prediction.files) - made
    of_shard = f" (shard {prediction.shard})" if prediction.shard else ""
    before = f"; {finished:,} files were already finished" if finished else ""
    if made:
        echo(
            f"Wrote {', '.join(prediction.columns)} of {prediction.rows:,} rows in {made:,} files to {prediction.path}{of_shard}, "
            f"{_describe_time(prediction)}{before}"
        )
    else:
        echo(f"Nothing to do in {prediction.path}{of_shard}: all {finished:,} files are already finished.")
    _print_meanings(prediction)


def _describe_time(prediction: "Prediction | FolderPrediction") -> str:
    rate = prediction.rows / prediction.seconds if prediction.seconds else 0.0
    return f"in {prediction.seconds:.1f} s ({rate:,.0f} rows per second)"


def _print_meanings(prediction: "Prediction | FolderPrediction") -> None:
    from recprune_export.prediction.encode_requests import describe_unknown

    for column, score in prediction.scores.items():
        echo(f"'{column}' is {score.meaning}.")
    print_notes(prediction.notes[:MOST_NOTES])
    if len(prediction.notes) > MOST_NOTES:
        print_notes((f"{len(prediction.notes) - MOST_NOTES:,} more notes: use --json to print all.",))
    print_notes(describe_unknown(prediction.unknown))
