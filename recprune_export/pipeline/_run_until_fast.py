"""Plan again, with less predicted time, if the file of a plan within `--max-bytes` is slower than the same model in PyTorch.

Tables of few bits save bytes and cost time. A faster plan has more bits and fewer dimensions in the same number of bytes.
"""

from collections.abc import Callable

from recprune_export.bundle.storage_summary import format_loss
from recprune_export.errors import SlowerThanPyTorch, TooLittleTime
from recprune_export.pipeline.build_manifest import Outcome
from recprune_export.pipeline.stage_checkpoints import NO_CHECKPOINTS, StageCheckpoints
from recprune_export.progress import print_status
from recprune_export.pruning.storage_plan import StoragePlan
from recprune_export.settings import Settings

MAX_RETRIES = 3
FASTER, FASTEST = 0.75, 0.2  # of the predicted time of a plan: the largest and the smallest limit for the next plan


class SlowPlan(SlowerThanPyTorch):
    """The file of a plan with a byte limit is slower than PyTorch; `storage` is that of the plan."""

    def __init__(self, error: SlowerThanPyTorch, storage: StoragePlan) -> None:
        super().__init__(error.finding, error.ratio, error.excess)
        self.storage = storage

    @property
    def next_limit(self) -> float:
        """The predicted µs that the next plan may take: reduced at least by the factor by which the file is slower than PyTorch."""
        time = self.storage.point.microseconds
        return max(FASTEST * time, min(FASTER * time, time - self.excess * self.storage.rows))


def run_until_fast(
    run: Callable[[Settings, StageCheckpoints], Outcome], settings: Settings, checkpoints: StageCheckpoints
) -> tuple[Outcome, tuple[str, ...]]:
    """Return the outcome of `run`, and a note if the first plans were too slow. The whole job runs once for each plan.

    `run` raises `SlowPlan` if another plan may be faster. Finished stages in `checkpoints` are those of the first plan.

    Raises `SlowerThanPyTorch` if no plan is fast enough, with the attempts, and `TooLittleTime` if the settings already limit the
    predicted time and no plan is as fast.
    """
    slow: list[SlowPlan] = []
    while True:
        try:
            outcome = run(settings, NO_CHECKPOINTS if slow else checkpoints)
        except SlowPlan as error:
            slow.append(error)
            if len(slow) > MAX_RETRIES:
                raise _refuse(slow, f"{len(slow)} plans were tried") from error
        except TooLittleTime as error:
            if not slow:  # the limit is that of the caller
                raise
            raise _refuse(slow, "no plan within the byte limit is predicted to be fast enough") from error
        else:
            return outcome, _describe(slow, outcome)
        time, limit = slow[-1].storage.point.microseconds, slow[-1].next_limit
        print_status(
            f"{slow[-1].finding} The plan is computed again, for a predicted time of {limit:.3g} instead of {time:.3g} µs."
        )
        settings = settings.with_options(max_microseconds=limit)


def _describe(slow: list[SlowPlan], outcome: Outcome) -> tuple[str, ...]:
    storage = outcome.pruned.stages[-1].plan.storage
    if not slow or storage is None:
        return ()
    first, last = slow[0].storage.point, storage.point
    return (
        f"The plan with the least loss was too slow, and was computed again {_count(len(slow))}. "
        f"{slow[0].finding} Predicted time of lookups "
        f"and matrix products: {first.microseconds:.0f} µs before, {last.microseconds:.0f} µs now. Predicted loss: "
        f"{format_loss(first.loss)} before, {format_loss(last.loss)} now.",
    )


def _count(times: int) -> str:
    return "once" if times == 1 else f"{times} times"


def _refuse(slow: list[SlowPlan], reason: str) -> SlowerThanPyTorch:
    best = min(slow, key=lambda error: error.ratio)
    time = best.storage.point.microseconds
    if best.excess * best.storage.rows > time:
        remedy = (
            f"The lookups and matrix products, predicted to take {time:.3g} µs, are not the slow part, so more bytes may not help: "
            "see `recprune-export profile`, or leave out this batch size in --latency-batch-sizes."
        )
    else:
        remedy = "Allow more bytes, since tables with more bits are faster, or remove only channels with --sparsity."
    return SlowerThanPyTorch(
        f"{best.finding} It is the fastest measured plan within --max-bytes: {reason}. {remedy}",
        best.ratio,
        best.excess,
    )
