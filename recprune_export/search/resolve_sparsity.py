"""`resolve_sparsity`: the sparsity that the user's wish comes to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recprune_export.errors import PruningError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.prune import SearchPrefix
from recprune_export.program.program import Program
from recprune_export.search.max_drop import find_sparsity_within_drop
from recprune_export.search.target_speedup import find_sparsity_for_speedup
from recprune_export.search.trials import Trials
from recprune_export.settings import Settings


@dataclass(frozen=True)
class ResolvedSparsity:
    """Settings with the sparsity that was found, a sentence that says why, and what the search did once for their seed."""

    settings: Settings
    reason: str
    search_prefix: SearchPrefix | None = None


def resolve_sparsity(
    program: Program, settings: Settings, task: Task, file: Path, tell: Callable[[str], None] = lambda text: None
) -> ResolvedSparsity | None:
    """Search where `settings` ask for it; None where they give the sparsity itself. `file` remembers trials.

    Raises `PruningError` where no sparsity does what is asked.
    """
    if settings.target_speedup is not None:
        sparsity = find_sparsity_for_speedup(program, settings, task, settings.target_speedup, tell)
        because = (
            f"the least at which it is {settings.target_speedup:g} times as fast as the dense model in ONNX Runtime"
        )
        return ResolvedSparsity(_at(settings, sparsity), f"Sparsity {sparsity:.3f}: {because}, by structure alone.")
    if settings.max_drop is None:
        return None
    trials = Trials(program, settings, task, file)
    found = find_sparsity_within_drop(trials, settings.max_drop, settings.sparsity, settings.seed, tell)
    if not found.confirmed:
        raise PruningError(
            f"At no sparsity does the validation metric certainly fall less than {settings.max_drop:g}: allow more, give more "
            "validation rows, or tune for longer (--epochs)."
        )
    changes = ", ".join(f"{t.change.change:+.4f} [{t.change.low:+.4f}, {t.change.high:+.4f}]" for t in found.confirmed)
    return ResolvedSparsity(
        _at(settings, found.sparsity),
        f"Sparsity {found.sparsity:.3f}: the largest of {len(found.trials)} trials at which the {found.confirmed[0].change.metric} of the "
        f"validation rows falls no more than {settings.max_drop:g}; it changed by {changes}, by seed.",
        trials.search_prefix(settings.seed),
    )


def _at(settings: Settings, sparsity: float) -> Settings:
    return replace(settings, sparsity=sparsity, embedding_sparsity=None, hidden_sparsity=None)
