"""What `train` says."""

from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.console.tables import make_console, make_table, print_json, print_notes, quote_for_shell

if TYPE_CHECKING:
    from recprune_export.training.train import TrainingResult


def print_training(training: "TrainingResult", data: Path, *, as_json: bool) -> None:
    """Say how training on `data` went and what came of it."""
    checkpoint = training.checkpoint
    if as_json:
        values = {
            "checkpoint": str(training.path),
            "recommender": checkpoint.recommender,
            "parameters": training.parameters,
            "training_rows": training.rows,
            "test": dict(checkpoint.metrics),
            "notes": list(training.notes),
            **training.fitted.to_dict(),
        }
        return print_json(values)
    console = make_console()
    print_notes(training.notes)
    epochs = make_table(
        f"{checkpoint.recommender}, {training.rows:,} training rows", "epoch", "training loss", "validation", ""
    )
    for number, epoch in enumerate(training.fitted.epochs):
        kept = "kept" if number == training.fitted.best else ""
        epochs.add_row(str(number + 1), f"{epoch.loss:.4f}", f"{epoch.metric:.4f}", kept)
    console.print(epochs)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in checkpoint.metrics.items())
    console.print(f"Test: {metrics}", highlight=False)
    console.print(f"{training.parameters:,} parameters in {training.path}", highlight=False, soft_wrap=True)
    again = f"{quote_for_shell(training.path)} --sparsity 0.7 --data {quote_for_shell(data)}"
    console.print(f"Next: recprune-export {again}", highlight=False, soft_wrap=True)
