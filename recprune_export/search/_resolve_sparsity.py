"""`resolve_sparsity`: search the sparsity for a quality or a speed-up that the user asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from recprune_export.errors import Undecided, ValidationFailed
from recprune_export.evidence import Verdict
from recprune_export.finetuning.task import Task, run_program
from recprune_export.number_formats import format_estimate
from recprune_export.pipeline._prune import SearchPrefix
from recprune_export.program.program import Program
from recprune_export.row_resolution import expected_resolution, format_resolution, warn_of_few_rows
from recprune_export.search.max_drop import DropSearchResult, find_sparsity_within_drop
from recprune_export.search.target_speedup import SpeedTarget, find_sparsity_for_speedup
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

    Raises `ValidationFailed` where no sparsity reaches the target, `Undecided` where the rows or the machine cannot tell.
    """
    if settings.search.target_speedup is not None:
        return _search_speedup(program, settings, settings.search.target_speedup, task, report)
    if settings.search.max_drop is not None:
        _warn_of_few_rows(program, task, settings.search.max_drop, report)
        return _search_drop(Trials(program, settings, task, file), settings, settings.search.max_drop, report)
    return None


def _warn_of_few_rows(program: Program, task: Task, max_drop: float, report: Callable[[str], None]) -> None:
    """Report, before the trials, where the validation rows can hold the claim at no sparsity."""
    dense = partial(run_program, program)
    change = task.change(dense, dense)
    warning = warn_of_few_rows(change.metric, change.rows, expected_resolution(change.error), max_drop)
    if warning is not None:
        report(warning)


def _search_speedup(
    program: Program, settings: Settings, speedup: float, task: Task, report: Callable[[str], None]
) -> ResolvedSparsity:
    batch_sizes = settings.search.target_batch_sizes or settings.latency.latency_batch_sizes
    target = SpeedTarget(speedup, batch_sizes, settings.latency.threads)
    result = find_sparsity_for_speedup(program, settings.pruning, target, task, report, seed=settings.seed)
    return ResolvedSparsity(
        _with_sparsity(settings, result.sparsity),
        f"Sparsity {result.sparsity:.3f}: the least at which the model is certainly {speedup:g} times as fast as the dense one in "
        f"ONNX Runtime; it is {format_estimate(result.speedup, '.2f')} times ({target.conditions}), by removed "
        "channels alone.",
    )


def _search_drop(
    trials: Trials, settings: Settings, max_drop: float, report: Callable[[str], None]
) -> ResolvedSparsity:
    undecided = settings.search.undecided
    result = find_sparsity_within_drop(
        trials, max_drop, settings.pruning.sparsity, settings.seed, report, undecided_passes=undecided == "pass"
    )
    if not result.confirmed:
        _raise_not_within_drop(result, max_drop, undecided)
    changes = ", ".join(format_estimate(t.change.estimate) for t in result.confirmed)
    metric, rows = result.confirmed[0].change.metric, result.confirmed[0].change.rows
    claim = f"the {metric} of the {rows:,} validation rows falls by at most {max_drop:g}"
    if result.verdict is Verdict.UNDECIDED:
        claim = f"it cannot be ruled out that {claim}"
    return ResolvedSparsity(
        _with_sparsity(settings, result.sparsity),
        f"Sparsity {result.sparsity:.3f}: the largest of {len(result.trials)} trials at which {claim}; it changed by {changes}, "
        "by seed.",
        trials.search_prefix(settings.seed),
    )


def _raise_not_within_drop(result: DropSearchResult, max_drop: float, undecided: str | None) -> NoReturn:
    least = result.trials[0].change
    open_losses = [trial.change.loss for trial in result.trials if trial.judge(max_drop) is Verdict.UNDECIDED]
    if not open_losses or undecided == "fail":
        raise ValidationFailed(
            f"At no sparsity is it certain that the {least.metric} of the validation rows falls by at most {max_drop:g}: at "
            f"{result.trials[0].sparsity:.3f}, the least that was tried, it changed by {format_estimate(least.estimate)}. "
            "Allow more, or tune for longer (--epochs)."
        )
    resolution = format_resolution(least.rows, min(loss.resolution for loss in open_losses), "validation rows")
    raise Undecided(
        f"Whether the {least.metric} falls by at most {max_drop:g} cannot be told at any sparsity that was tried: "
        f"{resolution} at best. Give more validation rows, allow a larger --max-drop, "
        "or take the largest sparsity that does not certainly fail by --undecided pass."
    )


def _with_sparsity(settings: Settings, sparsity: float) -> Settings:
    return settings.with_options(sparsity=sparsity, embedding_sparsity=None, hidden_sparsity=None)
