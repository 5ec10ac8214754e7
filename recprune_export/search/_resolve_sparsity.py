"""`resolve_sparsity`: search the sparsity for a quality or a speed-up that the user asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recprune_export.errors import PruningError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline._prune import SearchPrefix
from recprune_export.program.program import Program
from recprune_export.search.max_drop import find_sparsity_within_drop
from recprune_export.search.target_speedup import find_sparsity_for_speedup
from recprune_export.search.trials import Trials
from recprune_export.settings import Settings


@dataclass(frozen=True)
class ResolvedSparsity:
    """Settings with the chosen sparsity, a sentence that explains it, and the work that the search did for their seed."""

    settings: Settings
    reason: str
    search_prefix: SearchPrefix | None = None


def resolve_sparsity(
    program: Program, settings: Settings, task: Task, file: Path, report: Callable[[str], None] = lambda text: None
) -> ResolvedSparsity | None:
    """Search where `settings` ask for it; None where they give the sparsity itself. Trials are saved in `file`.

    Raises `PruningError` where no sparsity reaches the target.
    """
    target_speedup, max_drop = settings.search.target_speedup, settings.search.max_drop
    if target_speedup is not None:
        sparsity = find_sparsity_for_speedup(
            program, settings.pruning, settings.latency, task, target_speedup, report, seed=settings.seed
        )
        reason = f"the least at which it is {target_speedup:g} times as fast as the dense model in ONNX Runtime"
        return ResolvedSparsity(
            _with_sparsity(settings, sparsity), f"Sparsity {sparsity:.3f}: {reason}, by structure alone."
        )
    if max_drop is None:
        return None
    trials = Trials(program, settings, task, file)
    result = find_sparsity_within_drop(trials, max_drop, settings.pruning.sparsity, settings.seed, report)
    if not result.confirmed:
        raise PruningError(
            f"At no sparsity does the validation metric certainly fall less than {max_drop:g}: allow more, give more "
            "validation rows, or tune for longer (--epochs)."
        )
    changes = ", ".join(f"{t.change.change:+.4f} [{t.change.low:+.4f}, {t.change.high:+.4f}]" for t in result.confirmed)
    return ResolvedSparsity(
        _with_sparsity(settings, result.sparsity),
        f"Sparsity {result.sparsity:.3f}: the largest of {len(result.trials)} trials at which the "
        f"{result.confirmed[0].change.metric} of the validation rows falls no more than {max_drop:g}; it changed by {changes}, by seed.",
        trials.search_prefix(settings.seed),
    )


def _with_sparsity(settings: Settings, sparsity: float) -> Settings:
    return settings.with_options(sparsity=sparsity, embedding_sparsity=None, hidden_sparsity=None)
