"""What `sweep` says."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.console.tables import make_console, make_table, print_json, quote_for_shell

if TYPE_CHECKING:
    from recprune_export.search.sweep import Sweep
    from recprune_export.search.trials import Trial


def print_trial(trial: "Trial") -> None:
    """Say in one line what a trial of a sweep gave."""
    from recprune_export.progress import print_status

    assert trial.artifact is not None
    c, speed = trial.change, trial.artifact.overall
    print_status(
        f"sparsity {trial.sparsity:g}: {c.metric} {c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}], {speed.estimate:.2f}× as fast"
    )


def print_sweep(search: "Sweep", folder: Path, arguments: Sequence[str], *, as_json: bool) -> None:
    """Show quality, size and speed over sparsity; `arguments` is what was given that the main job takes, to go on with."""
    if as_json:
        return print_json(search.to_dict())
    console = make_console()
    first = search.trials[0]
    assert first.artifact is not None
    batches = [f"batch {batch}" for batch in first.artifact.speedup]
    title = f"Dense {first.change.metric} on validation rows {first.change.before:.4f}; times as fast as dense in ONNX Runtime"
    table = make_table(title, "sparsity", f"{first.change.metric} [95 %]", "parameters", "MB", *batches, "")
    for number, trial in enumerate(search.trials):
        c, artifact = trial.change, trial.artifact
        assert artifact is not None
        table.add_row(
            f"{trial.sparsity:g}",
            f"{c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}]",
            f"{artifact.nonzero:,}",
            f"{artifact.bytes / 1e6:.2f}",
            *(f"{speed.estimate:.2f}×" for speed in artifact.speedup.values()),
            "knee" if number == search.knee else "",
        )
    console.print(table)
    console.print(
        f"Written: {folder / 'sweep.json'}; `recprune-export report BUNDLE --sweep {quote_for_shell(folder)}` draws it",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    chosen = search.trials[search.knee if search.knee is not None else 0].sparsity
    again = shlex.join([*arguments, "--sparsity", f"{chosen:g}"])
    console.print(f"Next: recprune-export {again}", highlight=False, soft_wrap=True)
