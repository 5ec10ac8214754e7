"""Runs of a dense and a pruned program side by side: the outputs of a layer in the former, its inputs in the latter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.program.paused_run import PausedRun
from recprune_export.program.program import Program


@dataclass(frozen=True)
class CallSample:
    """The outputs of the calls of a layer in the dense program, and the inputs of its calls in the pruned model, on one batch."""

    dense_outputs: Sequence[Tensor]
    pruned_inputs: Sequence[Tensor]


@dataclass(frozen=True)
class SplitSamples:
    """A sample of each batch: those to fit on, and those held out to decide whether a layer has improved."""

    fit: Sequence[CallSample]
    held_out: Sequence[CallSample]


class PairedRuns:
    """Both programs on each batch, paused at the same layer."""

    def __init__(
        self, dense: Program, pruned: Program, batches: Sequence[Batch], dense_calls: Iterable[Sequence[str]]
    ) -> None:
        outputs = frozenset(name for calls in dense_calls for name in calls)
        self._runs = [(PausedRun(dense, request, outputs), PausedRun(pruned, request)) for request, _ in batches]

    def sample(self, dense_calls: Sequence[str], pruned_calls: Sequence[str]) -> SplitSamples:
        """Run up to the calls of the next layer; the pruned program pauses before them."""
        samples = [
            CallSample(dense.call_outputs(dense_calls), pruned.call_inputs(pruned_calls))
            for dense, pruned in self._runs
        ]
        period = 4  # every fourth batch is held out
        held_out = samples[period - 1 :: period]
        fit = [sample for number, sample in enumerate(samples) if number % period != period - 1]
        return SplitSamples(fit or samples, held_out or samples)
