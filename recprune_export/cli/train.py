"""A reference recommender on rows of the user's."""

from pathlib import Path
from typing import Any

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, data_options
from recprune_export.cli.parse_values import parse_integers

TRAINING_OVERRIDES = (
    "labels",
    "categorical",
    "numeric",
    "multi_valued",
    "ignore",
    "split",
    "sequence",
    "max_length",
    "seed",
)
RECIPE = ("epochs", "batch_size", "learning_rate", "patience", "seed")


@main.command()
@click.option("--data", type=FILE, required=True, help="CSV or Parquet.")
@click.option(
    "--recommender", default="dlrm", show_default=True, help="two_tower, neumf, deepfm, dlrm, dcn_v2, mmoe, sasrec."
)
@data_options
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
    from recprune_export.console.training import print_training
    from recprune_export.data.schema.infer_schema import SchemaOverrides
    from recprune_export.progress import quiet as silently
    from recprune_export.training.train import train as run

    given = {name: value for name, value in options.items() if value is not None}
    if "hidden" in given:
        given["hidden"] = parse_integers(given["hidden"], "--hidden")
    wishes = SchemaOverrides(**{name: given[name] for name in TRAINING_OVERRIDES if name in given})
    config: dict[str, Any] = {name: given[name] for name in ("dim", "hidden") if name in given}
    recipe = {name: given[name] for name in RECIPE if name in given}
    with silently(quiet or as_json):
        result = run(data, recommender, output, wishes, config, **recipe)
    print_training(result, data, as_json=as_json)
