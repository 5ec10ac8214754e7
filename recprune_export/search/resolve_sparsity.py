"""`settle`: the sparsity that the user's wish comes to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recprune_export.errors import PruningError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.prune import Beginning
from recprune_export.program.program import Program
from recprune_export.search.max_drop import most_within
from recprune_export.search.target_speedup import least_for_speedup
from recprune_export.search.trials import Trials
from recprune_export.settings import Settings


@dataclass(frozen=True)
class Settled:
    """Settings with the sparsity that was found, a sentence that says why, and what the search did once for their seed."""

    settings: Settings
    because: str
    beginning: Beginning | None = None


def settle(
    program: Program, settings: Settings, task: Task, file: Path, tell: Callable[[str], None] = lambda text: None
) -> Settled | None:
    """Search where `settings` ask for it; None where they give the sparsity itself. `file` remembers trials.

    Raises `PruningError` where no sparsity does what is asked.
    """
    if settings.target_speedup is not None:
        sparsity = least_for_speedup(program, settings, task, settings.target_speedup, tell)
        because = (
            f"the least at which it is {settings.target_speedup:g} times as fast as the dense model in ONNX Runtime"
        )
        return Settled(_at(settings, sparsity), f"Sparsity {sparsity:.3f}: {because}, by structure alone.")
    if settings.max_drop is None:
        return None
    trials = Trials(program, settings, task, file)
    found = most_within(trials, settings.max_drop, settings.sparsity, settings.seed, tell)
    if not found.chosen:
        raise PruningError(
            f"At no sparsity does the validation metric certainly fall less than {settings.max_drop:g}: allow more, give more "
            "validation rows, or tune for longer (--epochs)."
        )
    changes = ", ".join(f"{t.change.change:+.4f} [{t.change.low:+.4f}, {t.change.high:+.4f}]" for t in found.chosen)
    return Settled(
        _at(settings, found.sparsity),
        f"Sparsity {found.sparsity:.3f}: the largest of {len(found.all)} trials at which the {found.chosen[0].change.metric} of the "
        f"validation rows falls no more than {settings.max_drop:g}; it changed by {changes}, by seed.",
        trials.beginning(settings.seed),
    )


def _at(settings: Settings, sparsity: float) -> Settings:
    return replace(settings, sparsity=sparsity, embedding_sparsity=None, hidden_sparsity=None)
