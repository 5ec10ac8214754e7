"""What each process does in the tests of training, tuning and statistics; one process does the same without the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.data import ArrayData, Rows, SchemaOverrides
from recprune_export.distributed import row_shards
from recprune_export.finetuning import (
    FineTuningConfig,
    LabeledRows,
    NonZeroTarget,
    Schedule,
    finetune,
    make_objective,
    weight_curvature,
)
from recprune_export.finetuning._finetune import _InitialWeights
from recprune_export.finetuning.answer_counts import take_answers
from recprune_export.pipeline._prune import prune
from recprune_export.pipeline.planning import make_score_inputs, plan_pruning
from recprune_export.pipeline.stage_checkpoints import StageCheckpoints
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning.importance.output_error import gather_group_statistics
from recprune_export.pruning.rare_ids._choose_rows import count_ids
from recprune_export.pruning.rare_ids.find_tables import find_prunable_tables
from recprune_export.settings import FineTuningSettings, PruningSettings
from recprune_export.training import train
from recprune_export.training.deferred_adam import DeferredAdam

LONG, WIDTH, BATCH = 600, 16, 9  # at least 16 rows for each id of a batch
SHARDED = 1 << 12  # bytes, of which only the long table has more


class Model(nn.Module):
    """A long table that a bag and a single id look up, a short one, and a batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short = nn.Embedding(LONG, WIDTH), nn.Embedding(5, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(2 * WIDTH, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, user: Tensor, seen: Tensor, kind: Tensor) -> dict[str, Tensor]:
        vector = torch.cat([self.long(user) + self.long(seen).sum(1), self.short(kind)], 1)
        return {"click": self.mlp(vector).squeeze(1)}


def make_program(seed: int = 0) -> Program:
    torch.manual_seed(seed)
    module = Model()
    return capture(module.eval(), (), {name: torch.from_numpy(v) for name, v in make_rows(0, 3).inputs.items()})


def make_rows(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    user = (LONG * rng.random(count) ** 2).astype(np.int64)
    inputs = {"user": user, "seen": rng.integers(LONG, size=(count, 2)), "kind": rng.integers(5, size=count)}
    return Rows(inputs, {"click": (rng.random(count) < np.where(user % 2, 0.8, 0.2)).astype(np.float32)})


def make_task(program: Program, rows: int, batch: int = BATCH) -> LabeledRows:
    data = ArrayData(make_rows(1, rows), make_rows(2, 61), make_rows(3, 50))
    return LabeledRows(data, make_objective(program, ("click",)), FineTuningConfig(1, 1e-2, batch))


@contextmanager
def sharded_from(size: int) -> Iterator[None]:
    before, row_shards.SHARD_BYTES = row_shards.SHARD_BYTES, size
    try:
        yield
    finally:
        row_shards.SHARD_BYTES = before


@contextmanager
def last_weights() -> Iterator[None]:
    """The tuned weights stay, where those before were better."""
    before, _InitialWeights.restore = _InitialWeights.restore, lambda self: None  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        _InitialWeights.restore = before  # type: ignore[method-assign]


@dataclass(frozen=True)
class Tuned:
    weights: dict[str, Tensor]
    zeros: int
    losses: list[float]
    metrics: list[float]


def tune(rows: int, epochs: int, target: NonZeroTarget | None, with_curvature: bool) -> Tuned:
    """Fine-tune with the long table in shards; 11 rows are a batch of nine and one of two, of which a third process has none."""
    with sharded_from(SHARDED):
        student, teacher = make_program(1), make_program(2)
        task = make_task(student, rows)
        tables = frozenset({"long.weight", "short.weight"})
        curvature = None
        if with_curvature:
            data = task.distillation_data(student, student)
            batches = take_answers(1000, data.batches(0), 1, divided=True)
            curvature = weight_curvature(student, tables, batches, task.objective.probe)
        schedule = Schedule(epochs, 1e-2, gradual=True, seed=0)
        goal = target or NonZeroTarget(10**9, 10**9)
        with last_weights():
            fitted = finetune(student, teacher, task, tables, goal, schedule, curvature)
    assert fitted is not None
    weights = {name: value.detach().clone() for name, value in student.module.state_dict().items()}
    zeros = sum(int((p == 0).sum()) for p in student.parameters().values())
    return Tuned(weights, zeros, [e.loss for e in fitted.epochs], [fitted.initial_metric, fitted.epochs[-1].metric])


def gather_statistics() -> tuple[dict[str, list[Tensor]], dict[str, np.ndarray], dict[str, Tensor], dict[str, int]]:
    """Return moments, id counts, curvature and the widths of a plan."""
    program = make_program()
    task = make_task(program, 500, batch=64)
    inputs = make_score_inputs(program, task)
    moments = {
        name: [s.moments.values, s.moments.covariance, s.moments.gradients, s.moments.sizes]
        for name, s in gather_group_statistics(program, inputs.batches, inputs.probe).items()
    }
    tables, _ = find_prunable_tables(program)
    requests = (request for request, _ in task.training_batches(0, divided=True))
    counts = dict(count_ids(program, tables.values(), requests))
    data = task.distillation_data(program, program)
    curvature = weight_curvature(program, frozenset({"long.weight"}), data.batches(0), task.objective.probe)
    plan = plan_pruning(program, PruningSettings(sparsity=0.8, width_multiple=1), task).plan
    widths = {group.group: len(group.keep) for group in plan.groups}
    return moments, counts, {n: c[...] for n, c in curvature.items()}, widths


def prune_in_stages(folder: Path | None, stop_after: int | None) -> tuple[dict[str, Tensor], list[str]]:
    """Prune in two stages with checkpoints in `folder` of the first process; the second one fails with `stop_after` 1."""
    from recprune_export.distributed import is_main

    program = make_program()
    task = make_task(program, 200, batch=32)
    checkpoints = StageCheckpoints(folder if is_main() else None, "key")
    found = list(checkpoints.names)
    settings = PruningSettings(sparsity=0.6, pruning_stages=2, width_multiple=1)
    if stop_after is not None:
        checkpoints = _Stopping(checkpoints.folder, checkpoints.key)
    try:
        model = prune(program, settings, FineTuningSettings(), replace_epochs(task, 2), checkpoints=checkpoints)
    except KeyboardInterrupt:
        return {}, found
    return dict(model.program.module.state_dict()), found


class _Stopping(StageCheckpoints):
    def load(self, name: str):  # type: ignore[no-untyped-def]
        if name == "stage-2":
            raise KeyboardInterrupt
        return super().load(name)


def replace_epochs(task: LabeledRows, epochs: int) -> LabeledRows:
    return replace(task, config=replace(task.config, epochs=epochs))


def train_file(data: Path, output: Path, recommender: str, sharded: int, rate: float, batch: int, epochs: int) -> str:
    """Train with tables in shards from `sharded` bytes on."""
    with sharded_from(sharded):
        try:
            train(
                data, recommender, output, SchemaOverrides(labels=("clicked",)), {"dim": 8, "hidden": (16,)},
                epochs=epochs, batch_size=batch, learning_rate=rate,
            )  # fmt: skip
        except SystemExit as end:
            return f"left with {end.code}"
    return "written"


def step_deferred(steps: int) -> Tensor:
    """Adam with deferred steps on a table of which each process looks up other rows in each step."""
    from recprune_export.distributed import take_share
    from recprune_export.distributed.gradients import sum_gradients

    torch.manual_seed(0)
    table = nn.Embedding(30, 4)
    optimizer = DeferredAdam([table], [], 1e-2)
    rng = np.random.default_rng(0)
    with optimizer.deferred():
        for _ in range(steps):
            ids = take_share(torch.from_numpy(rng.integers(30, size=6)))
            optimizer.zero_grad()
            table(ids).pow(3).sum().backward()
            sum_gradients([table.weight])
            optimizer.step()
    return table.weight.detach()
