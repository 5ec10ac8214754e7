"""`predict`: score the rows of a file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recprune_export.cli.input_paths import BUNDLE, DATA
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, reading_options
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, print_json, print_notes, prints_after_work

if TYPE_CHECKING:
    from recprune_export.prediction._predict import Prediction


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--data", type=DATA, required=True, help="CSV or Parquet, raw values as in training.")
@click.option("-o", "--output", type=FILE, required=True, help="A .parquet or .csv file with the model's outputs.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="A column of --data to write beside; may be repeated.")
@click.option("--probability", is_flag=True, help="Write probabilities in place of logits.")
@click.option("--batch-size", type=click.IntRange(1), default=4096, show_default=True, help="Rows of a request.")
@click.option("--threads", type=click.IntRange(1), help="[default: that of the bundle's manifest]")
@reading_options
@screen_options("Print JSON instead of a sentence.")
def predict(
    bundle: Path,
    data: Path,
    output: Path,
    keep: tuple[str, ...],
    probability: bool,
    batch_size: int,
    threads: int | None,
    separator: str | None,
    encoding: str | None,
    allow_unknown: bool,
    as_json: bool,
) -> None:
    """Score every row of a file with BUNDLE; rows are streamed. Needs ONNX Runtime and polars, no PyTorch.

    The columns of the scores say what they are: clicked_logit is the logit of the label clicked (its probability is
    1 / (1 + exp(-logit)), or --probability), clicked_probability a probability, and stars_prediction a predicted number. An
    output whose meaning the bundle does not state keeps its name.
    """
    from recprune_export.bundle.archive.unpacking import open_bundle_path
    from recprune_export.prediction._predict import predict as run
    from recprune_export.settings import DataSettings

    reading = DataSettings(separator, encoding, allow_unknown)
    with open_bundle_path(bundle) as folder:
        prediction = run(
            folder, data, output, keep=keep, probability=probability, threads=threads, rows=batch_size, reading=reading
        )
    print_prediction(prediction, as_json=as_json)


@prints_after_work
def print_prediction(prediction: "Prediction", *, as_json: bool) -> None:
    """Print the columns, rows and file that were written, and the number of values unknown to the model."""
    from recprune_export.prediction.encode_requests import describe_unknown

    if as_json:
        return print_json(prediction.to_dict())
    rate = prediction.rows / prediction.seconds if prediction.seconds else 0.0
    echo(
        f"Wrote {', '.join(prediction.columns)} of {prediction.rows:,} rows to {prediction.path}, "
        f"in {prediction.seconds:.1f} s ({rate:,.0f} rows a second)"
    )
    for column, score in prediction.scores.items():
        echo(f"'{column}' is {score.meaning}.")
    print_notes(prediction.notes)
    print_notes(describe_unknown(prediction.unknown))
