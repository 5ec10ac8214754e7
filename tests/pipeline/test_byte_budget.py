"""A plan within a number of bytes: the file never has more, whatever the limit, and the same limit gives the same plan."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from recprune_export.api import compress, load_model, make_task
from recprune_export.bundle import verify
from recprune_export.errors import ModelError, PruningError, TooLittleTime, UsageError, ValidationFailed
from recprune_export.finetuning import Task
from recprune_export.onnx.export import ServingConfig
from recprune_export.pipeline.byte_budget import count_file_bytes, plan_within_bytes, resolve_byte_limit
from recprune_export.pipeline.compress import check_byte_limit, make_sampled_task
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.pipeline.planning import (
    make_byte_candidates,
    make_score_inputs,
    plan_pruning,
    plan_rows,
    share_planned_rows,
)
from recprune_export.program import Program
from recprune_export.pruning import Plan
from recprune_export.pruning.allocation.storage_candidates import Candidate, make_candidates
from recprune_export.pruning.plan import NO_FIELDS, PlannedProgram
from recprune_export.pruning.pruning_constants import TIED_LOSS, TIED_LOSS_FRACTION
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits

SETTINGS = Settings(max_bytes="20%", epochs=1, latency_batch_sizes=(1, 8), quick=True)


def loaded(checkpoint: Path, data: Path) -> tuple[Program, Task]:
    model = load_model(checkpoint, None, {})
    return model.program, make_task(model, data, (), SETTINGS)


@dataclass(frozen=True)
class Job:
    """The candidates of a program, a request of its rows, and the bytes of its dense file."""

    candidates: Sequence[Candidate]
    request: Mapping[str, Tensor]
    dense_bytes: int

    def plan(self, max_bytes: int) -> PlannedProgram:
        return plan_within_bytes(self.candidates, self.request, max_bytes)


@pytest.fixture(scope="module")
def job(checkpoint: Path, clicks_file: Path) -> Job:
    program, task = loaded(checkpoint, clicks_file)
    limit = Settings(max_bytes="50%").pruning.byte_limit
    assert limit is not None
    serving = make_serving_config(SETTINGS)
    candidates = make_byte_candidates(program, SETTINGS.pruning, task, NO_FIELDS, serving=serving)
    return Job(candidates, make_score_inputs(program, task).batches[0][0], 2 * resolve_byte_limit(program, limit))


@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_the_counted_file_of_a_plan_has_no_more_bytes_than_allowed(fraction: float, job: Job) -> None:
    limit = int(fraction * job.dense_bytes)
    plan = job.plan(limit).plan
    assert plan.storage is not None
    assert plan.storage.point.bytes <= limit
    assert 0.9 * limit < plan.storage.point.bytes or plan.storage.point.loss <= 2 * TIED_LOSS  # nothing to gain
    assert plan.storage.least_loss_estimate <= plan.storage.point.loss
    losses = [point.loss for point in sorted((*plan.storage.curve, plan.storage.point), key=lambda p: p.bytes)]
    assert all(more <= fewer * (1 + 2 * TIED_LOSS_FRACTION) + TIED_LOSS for fewer, more in itertools.pairwise(losses))


@pytest.mark.slow
def test_a_plan_keeps_to_the_time_that_is_allowed_or_none_is_made(job: Job) -> None:
    limit = job.dense_bytes // 5
    slowest = job.plan(limit).plan.storage
    assert slowest is not None
    allowed = 0.8 * slowest.point.microseconds
    planned = plan_within_bytes(job.candidates, job.request, limit, max_microseconds=allowed).plan
    assert planned.storage is not None
    assert planned.storage.point.microseconds <= allowed
    assert planned.storage.point.bytes <= limit
    assert planned.storage.rows == 8  # the largest batch size of the job up to 256
    assert Plan.from_dict(planned.to_dict()) == planned
    with pytest.raises(TooLittleTime, match="Allow more time, or more bytes"):
        plan_within_bytes(job.candidates, job.request, limit, max_microseconds=1e-3)


@pytest.mark.slow
def test_a_plan_with_bits_is_json_and_the_same_again(job: Job) -> None:
    plan = job.plan(job.dense_bytes // 4).plan
    assert Plan.from_dict(plan.to_dict()) == plan
    assert job.plan(job.dense_bytes // 4).plan == plan


def test_a_layer_that_is_split_for_shared_inputs_keeps_its_planned_bits(job: Job) -> None:
    candidate = job.candidates[0]
    allocation = candidate.choices.allocate(25_000)
    assert allocation is not None
    (layer,) = [name for name, bits in allocation.layer_bits.items() if bits < 32 and name.startswith("top.0")]
    bytes_in_fp32 = candidate.projected.program.parameters()[layer].nbytes
    alone, shared = (
        count_file_bytes(candidate, allocation, job.request, ServingConfig(shared=names)) for names in ((), ("user",))
    )
    assert alone < shared < alone + bytes_in_fp32 // 8  # nodes and scales


def test_remaps_of_shared_rows_are_no_tables_with_bits(checkpoint: Path, clicks_file: Path) -> None:
    program, task = loaded(checkpoint, clicks_file)
    shared = share_planned_rows(program, plan_rows(program, 0.3, task), task)
    assert shared.analysis.tables - shared.parameters().keys()
    candidate = make_candidates(shared, make_score_inputs(shared, task), 16)[0]
    allocation = candidate.choices.allocate(20_000)
    assert allocation is not None
    assert allocation.table_bits.keys() <= candidate.projected.program.parameters().keys()


class FirstOrder(torch.nn.Module):
    """Logistic regression on ids."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.bias = torch.nn.Embedding(6000, 1), torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids: Tensor) -> Tensor:
        return torch.sigmoid(self.weights(ids).sum(1) + self.bias)


def test_bits_are_planned_where_no_channel_can_be_removed() -> None:
    program = load_model(FirstOrder(), torch.randint(0, 6000, (8, 3)), {}).program
    task = make_sampled_task(program, SETTINGS.finetuning)
    for limit, bits in (("80%", 16), ("45%", 8)):
        pruning = Settings(max_bytes=limit, epochs=1).pruning
        planned = plan_pruning(program, pruning, task)
        assert planned.plan.storage is not None
        assert planned.plan.storage.bits.tables == {"weights.weight": bits}
        assert planned.plan.groups == ()
        assert planned.plan.storage.point.bytes <= planned.plan.storage.max_bytes


def test_a_model_without_a_matrix_is_refused_by_name() -> None:
    program = load_model(torch.nn.PReLU(), torch.ones(4, 1), {}).program
    task = make_sampled_task(program, SETTINGS.finetuning)
    with pytest.raises(PruningError, match="No channel of this model can be removed"):
        make_byte_candidates(program, SETTINGS.pruning, task, NO_FIELDS)


def test_weights_in_double_precision_are_refused_by_name() -> None:
    table = torch.nn.Sequential(
        torch.nn.Embedding(50, 8), torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    )
    program = load_model(table.double(), torch.arange(4), {}).program
    task = make_sampled_task(program, SETTINGS.finetuning)
    with pytest.raises(ModelError, match=r"is float64: convert the model with model\.float"):
        make_byte_candidates(program, SETTINGS.pruning, task, NO_FIELDS)


def test_a_limit_below_the_smallest_file_is_refused_with_the_smallest(job: Job) -> None:
    with pytest.raises(UsageError, match="too small for this model"):
        job.plan(4_000)


def test_the_bundle_holds_its_limit_and_answers_in_onnx_runtime(
    checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    result = compress(checkpoint, target=tmp_path / "ctr", data=clicks_file, settings=SETTINGS)
    model, dense = (result.target / name for name in ("model.onnx", "dense.onnx"))
    limit = int(dense.stat().st_size * 0.2)
    assert result.manifest.plan["storage"]["max_bytes"] == limit
    assert 0.9 * limit < model.stat().st_size <= limit
    assert result.metrics["dense"]["auc"] - result.metrics["pruned"]["auc"] < 0.05
    assert onnxruntime.InferenceSession(model).get_outputs()
    verify(result.target)


def test_a_file_above_its_limit_is_refused() -> None:
    storage = StoragePlan(StoredBits(), 1_000, RatePoint(990, 0.1), 0.1)
    check_byte_limit(1_000, storage)
    check_byte_limit(2_000, None)
    with pytest.raises(ValidationFailed, match="1,001 bytes"):
        check_byte_limit(1_001, storage)
