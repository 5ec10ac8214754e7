"""What `predict` says."""

from typing import TYPE_CHECKING

import click

from recprune_export.console.tables import print_json

if TYPE_CHECKING:
    from recprune_export.prediction.predict import Prediction


def print_prediction(prediction: "Prediction", *, as_json: bool) -> None:
    """Say what was written, and how many values the model could not know."""
    if as_json:
        return print_json(prediction.to_dict())
    rate = prediction.rows / prediction.seconds if prediction.seconds else 0.0
    click.echo(
        f"Wrote {', '.join(prediction.columns)} of {prediction.rows:,} rows to {prediction.path}, "
        f"in {prediction.seconds:.1f} s ({rate:,.0f} rows a second)"
    )
    for name, count in prediction.unknown.items():
        click.echo(f"Note: {count:,} values of '{name}' are empty or unknown to the model.", err=True)
