"""`resolve_budgets`: find one operating point for all given budgets of quality, bytes and speed.

1. Speed first (`--target-speedup`, `--target-latency`; with both, each is searched and the faster model taken): with `--max-bytes`, the
longest predicted time of a plan within the limit at which the artifact is certainly fast enough; otherwise the smallest sparsity at which
it is.
2. Then quality (`--max-drop`): the least bytes at which the metric certainly falls no more, in two seeds, but never more bytes than
`--max-bytes`, nor more predicted time than the result of step 1. Among plans with nearly equal loss the fastest is chosen. After a
   speed target without `--max-bytes` only the sparsity of step 1 is judged: a smaller one is too slow, a larger one loses more.
   With `--minimize latency` it is the largest sparsity.
3. With only `--max-bytes`, no search is needed: the plan satisfies it.

If two budgets contradict each other, the error names the budget that fails at the point required by the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import floor, inf
from pathlib import Path
from typing import NoReturn

from recprune_export.distributed.shares import share_prediction
from recprune_export.errors import TooFewBytes, Undecided, UsageError, ValidationFailed
from recprune_export.evidence import Verdict
from recprune_export.finetuning.task import Task, run_program
from recprune_export.number_formats import format_estimate
from recprune_export.pipeline._prune import SearchPrefix
from recprune_export.pipeline.build_manifest import SearchRecord
from recprune_export.program.program import Program
from recprune_export.row_resolution import expected_resolution, format_resolution, warn_of_few_rows
from recprune_export.search.max_drop import DropClaim, DropSearchResult, confirm_point, find_point_within_drop
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.speed.speed_search import SpeedSearchResult, find_point_for_speed
from recprune_export.search.speed.speed_target import LatencyTarget, SpeedTarget, SpeedupTarget
from recprune_export.search.trial import Trial
from recprune_export.search.trials import Trials
from recprune_export.search.workers.tuning_workers import TuningWorkers
from recprune_export.settings import PruningSettings, Settings

FIRST_BYTES = 0.1  # of the dense file: the first point of a search for the bytes


@dataclass(frozen=True)
class ResolvedBudgets:
    """Settings at the chosen point, a sentence that explains it, and reusable results of the search for their seed.

    `record` is the entry of a bundle on the search. Its settings are those of the user, with the chosen sparsity, where the next search
    begins.
    """

    settings: Settings
    record: SearchRecord
    reason: str
    search_prefix: SearchPrefix | None = None


def check_budgets(settings: Settings) -> None:
    """Raise `UsageError` if options exclude each other, before the job starts."""
    search, pruning = settings.search, settings.pruning
    if pruning.max_bytes is not None and search.minimize == "latency" and search.max_drop is not None:
        raise UsageError(
            "--minimize latency searches over the sparsity and ignores --max-bytes: leave out one of them."
        )
    if not _searches_bytes(settings):
        return
    defaults = PruningSettings()
    others = {
        "--quantize": settings.quantization.quantize != "none",
        "--embedding-sparsity": pruning.embedding_sparsity is not None,
        "--hidden-sparsity": pruning.hidden_sparsity is not None,
        "--structured-fraction": pruning.structured_fraction is not None,
        "--pruning-stages": pruning.pruning_stages != defaults.pruning_stages,
        "--score": pruning.score != defaults.score,
    }
    given = [option for option, is_given in others.items() if is_given]
    if given:
        raise UsageError(
            f"--max-drop searches for the smallest file, and chooses widths and bits by their loss: leave out {given[0]}, "
            "or search over the sparsity with --minimize latency."
        )


def _searches_bytes(settings: Settings) -> bool:
    search = settings.search
    if search.max_drop is None or search.minimize == "latency":
        return False
    return settings.pruning.max_bytes is not None or not search.has_speed_target


def resolve_budgets(
    program: Program,
    settings: Settings,
    task: Task,
    folder: Path,
    report: Callable[[str], None] = lambda text: None,
    workers: TuningWorkers | None = None,
) -> ResolvedBudgets | None:
    """Search if `settings` require it; None if they specify the point. Trials are saved in `folder`.

    The trials of `--max-drop` run in `workers`, several at a time; the point is the same for any number of them.

    Raises `ValidationFailed` if no point is within all budgets, `Undecided` if the rows or the measurements are inconclusive,
    `UsageError` if options exclude each other or no plan is within the allowed bytes.
    """
    search = settings.search
    if search.max_drop is None and not search.has_speed_target:
        return None
    check_budgets(settings)
    trials = Trials(program, settings, task, folder)
    limit = _resolve_limit(settings, trials)
    point, reasons = None, []
    judged: tuple[Trial, ...] = ()
    for target in _list_targets(settings):
        result = find_point_for_speed(program, settings, target, task, report, max_bytes=limit)
        reasons.append(_explain_speed(result, target))
        if point is None or _is_faster(result.point, point):
            point = result.point
    if search.max_drop is not None:
        _warn_of_few_rows(program, task, search.max_drop, report)
        drop = _search_drop(trials, settings, point, limit, report, workers)
        point, judged = drop.point, drop.trials
        reasons.append(_explain_drop(drop, search.max_drop, settings, limit))
    assert point is not None
    at_point = trials.settings_at(point)
    recorded = at_point if point.kind == "sparsity" else settings
    record = SearchRecord(recorded, tuple(trial.to_dict() for trial in judged))
    return ResolvedBudgets(at_point, record, " ".join(reasons), trials.search_prefix(settings.seed))


def _is_faster(one: OperatingPoint, other: OperatingPoint) -> bool:
    """Return whether `one` is the faster of two sparsities, or of two plans within the same bytes."""
    return (one.density, one.microseconds or inf) < (other.density, other.microseconds or inf)


def _resolve_limit(settings: Settings, trials: Trials) -> float | None:
    """Return `--max-bytes` as a fraction of the dense file, rounded down to the precision of a point.

    Raises `TooFewBytes` if nothing is left.
    """
    limit = settings.pruning.byte_limit
    if limit is None:
        return None
    fraction = limit.bytes / trials.dense_bytes if limit.bytes is not None else limit.fraction or 0.0
    rounded = min(1.0, floor(round(fraction * 1e4, 6)) / 1e4)
    if not rounded:
        raise TooFewBytes(
            f"--max-bytes {settings.pruning.max_bytes} is too small for this model: less than 0.01% of the dense file. Allow more bytes."
        )
    return rounded


def _list_targets(settings: Settings) -> list[SpeedTarget]:
    search, threads = settings.search, settings.latency.threads
    targets: list[SpeedTarget] = []
    if search.target_speedup is not None:
        batch_sizes = search.target_batch_sizes or settings.latency.latency_batch_sizes
        targets.append(SpeedupTarget(search.target_speedup, batch_sizes, threads))
    if search.latency_limits:
        targets.append(LatencyTarget.from_limits(search.latency_limits, threads))
    return targets


def _warn_of_few_rows(program: Program, task: Task, max_drop: float, report: Callable[[str], None]) -> None:
    """Report, before the trials, if the validation rows cannot support the claim at any point."""
    dense = share_prediction(partial(run_program, program))
    change = task.change(dense, dense)
    warning = warn_of_few_rows(change.metric, change.rows, expected_resolution(change.error), max_drop)
    if warning is not None:
        report(warning)


def _search_drop(
    trials: Trials,
    settings: Settings,
    fast: OperatingPoint | None,
    limit: float | None,
    report: Callable[[str], None],
    workers: TuningWorkers | None,
) -> DropSearchResult:
    """Return the point whose drop is allowed; `fast` is that of the speed targets, `limit` the fraction of bytes."""
    search, seed = settings.search, settings.seed
    assert search.max_drop is not None
    claim = DropClaim(search.max_drop, undecided_passes=search.undecided == "pass")
    if fast is not None and fast.kind == "sparsity":
        result = confirm_point(trials, claim, fast, seed, report, workers)
        budget = f"{fast.label}, the smallest that is fast enough"
    elif search.minimize == "latency":
        first = 1.0 - settings.pruning.sparsity
        result, budget = find_point_within_drop(trials, claim, "sparsity", first, seed, report, workers=workers), None
    else:
        most = fast.density if fast is not None else 1.0 if limit is None else limit
        microseconds = 0.0 if fast is None else fast.microseconds
        result = find_point_within_drop(
            trials, claim, "bytes", FIRST_BYTES, seed, report, limit=most, microseconds=microseconds,
            workers=workers,
        )  # fmt: skip
        budget = (
            None if most >= 1.0 else f"{OperatingPoint('bytes', most).label}, the largest that the other budgets allow"
        )
    if result.point is None:
        _raise_not_within_drop(result, claim, search.undecided, budget)
    return result


def _raise_not_within_drop(
    result: DropSearchResult, claim: DropClaim, undecided: str | None, budget: str | None
) -> NoReturn:
    if not result.trials:
        raise ValidationFailed("No plan of this model is as small as the trials of --max-drop: use --minimize latency.")
    least, max_drop = result.trials[0], claim.max_drop
    change = least.change
    open_losses = [trial.change.loss for trial in result.trials if trial.judge(max_drop) is Verdict.UNDECIDED]
    where = f"at {least.point.label}, the smallest removed part" if budget is None else f"at {budget}"
    if not open_losses or undecided == "fail":
        remedy = "Allow more" if budget is None else "The budgets contradict each other: relax one of them"
        raise ValidationFailed(
            f"At no point of the search is it certain that the validation {change.metric} drops by "
            f"at most {max_drop:g}: {where}, it changed by {format_estimate(change.estimate)}. {remedy}, or fine-tune longer (--epochs)."
        )
    resolution = format_resolution(change.rows, min(loss.resolution for loss in open_losses), "validation rows")
    raise Undecided(
        f"It is inconclusive at all points of the search whether the {change.metric} drops by at most {max_drop:g}: "
        f"{resolution} at best. Give more validation rows, allow a larger --max-drop, "
        "or accept the smallest model that does not fail for certain with --undecided pass."
    )


def _explain_speed(result: SpeedSearchResult, target: SpeedTarget) -> str:
    if result.point.kind == "bytes":
        return (
            f"At {result.point.label} the model is certainly {target.words}: {target.describe(result.speed)}, measured "
            "before fine-tuning, with its planned bits."
        )
    return (
        f"Sparsity {result.point.value:.3f}: the smallest at which the model is certainly {target.words}; the measured value is "
        f"{target.describe(result.speed)}, from removed channels only."
    )


def _explain_drop(result: DropSearchResult, max_drop: float, settings: Settings, limit: float | None) -> str:
    change, point = result.confirmed[0].change, result.point
    assert point is not None
    changes = ", ".join(format_estimate(t.change.estimate) for t in result.confirmed)
    claim = f"the {change.metric} of the {change.rows:,} validation rows drops by at most {max_drop:g}"
    if result.verdict is Verdict.UNDECIDED:
        claim = f"it cannot be ruled out that {claim}"
    seeds = f"it changed by {changes}, by seed."
    if point.kind == "sparsity":
        if settings.search.has_speed_target:
            return f"At this sparsity {claim}; {seeds}"
        return f"Sparsity {point.value:.3f}: the largest of {len(result.trials)} trials at which {claim}; {seeds}"
    within = (
        "" if limit is None or settings.pruning.max_bytes is None else f" (--max-bytes {settings.pruning.max_bytes})"
    )
    return f"{point.label}: the smallest of {len(result.trials)} trials{within} at which {claim}; {seeds}"
