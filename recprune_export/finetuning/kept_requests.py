"""`KeptRequests`: the rows that a bundle keeps, as a task without labels; `keep_requests` selects them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.data.encoding.encoder import Request as Arrays
from recprune_export.data.rows import Rows
from recprune_export.distributed.ranks import rank, world_size
from recprune_export.finetuning.task import (
    DistillationData,
    SampledRequests,
    Task,
    count_tuning_steps,
    take_steps,
    to_tensors,
)
from recprune_export.program.program import Program
from recprune_export.program.signature import Signature


@dataclass(frozen=True, kw_only=True)
class KeptRequests(SampledRequests):
    """Encoded training rows without labels, and the dense program as the only teacher.

    `kept` are the rows of the calibration of an earlier job, in its order, so that the same weights have the same statistics;
    that order is the epoch of its `seed`.
    `rules` is the signature of that job, with its rules for ids out of range and large numbers, which were derived from all rows.
    """

    kept: Rows
    rules: Signature
    seed: int = 0

    @property
    def note(self) -> str:
        """A sentence on the origin of statistics and answers."""
        return (
            f"No --data: statistics are those of the {len(self.kept):,} training rows that the bundle keeps, and no quality was "
            "measured."
        )

    def training_batches(self, seed: int, *, divided: bool = False) -> Iterator[Batch]:
        """Yield the rows in their order, for any seed."""
        return self._batches(None, divided=divided)

    def distillation_data(self, student: Program, teacher: Program) -> DistillationData:
        """Return the rows, shuffled except in the epoch of the job's seed."""
        steps = count_tuning_steps(len(self.kept), self.config.batch_size)
        return DistillationData(student, teacher, partial(take_steps, steps, self._batches), steps)

    def _batches(self, seed: int | None, *, divided: bool) -> Iterator[Batch]:
        number, processes = (rank(), world_size()) if divided else (0, 1)
        order = None if seed == self.seed else seed
        for rows in self.kept.batches(self.config.batch_size, order, rank=number, world_size=processes):
            yield to_tensors(rows.inputs), {}

    def _draw(self, count: int, seed: int) -> dict[str, Tensor]:
        """Sample rows, with repetition if there are fewer."""
        number = len(self.kept)
        chosen = np.random.default_rng(seed).choice(number, count, replace=count > number)
        return to_tensors(self.kept.take(np.sort(chosen)).inputs)


def keep_requests(task: Task, count: int, seed: int) -> Arrays:
    """Return the first `count` rows, or all, of the calibration data of `task`, by input."""
    pieces: list[Mapping[str, Tensor]] = []
    rows = 0
    for request, _ in task.training_batches(seed):
        pieces.append(request)
        rows += len(next(iter(request.values())))
        if rows >= count:
            break
    return {name: torch.cat([piece[name] for piece in pieces])[:count].numpy() for name in pieces[0]}
