"""Requests made of test rows, on which the forms of weights and the trials of a search for a speed-up are timed."""

from collections.abc import Sequence

from recprune_export.finetuning.task import Task
from recprune_export.program.signature import Signature
from recprune_export.validation.latency.request_cycle import RequestCycle, count_cycle_rows, split_into_cycles


def make_latency_requests(batch_sizes: Sequence[int], task: Task, signature: Signature) -> dict[int, RequestCycle]:
    """Return different requests of test rows for each batch size; shared inputs are equal in all rows of one request."""
    return split_into_cycles(task.requests(count_cycle_rows(batch_sizes), seed=0), batch_sizes, signature, seed=0)
