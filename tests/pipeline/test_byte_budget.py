"""A plan within a number of bytes: the file never has more, whatever the limit, and the same limit gives the same plan."""

from pathlib import Path

import onnxruntime
import pytest

from recprune_export.api import compress, load_model, make_task
from recprune_export.bundle import verify
from recprune_export.errors import UsageError, ValidationFailed
from recprune_export.finetuning import Task
from recprune_export.pipeline.byte_budget import plan_within_bytes, resolve_byte_limit
from recprune_export.pipeline.compress import check_byte_limit
from recprune_export.pipeline.planning import make_score_inputs, plan_rows, share_planned_rows
from recprune_export.program import Program
from recprune_export.pruning import Plan
from recprune_export.pruning.allocation.storage_candidates import make_candidates
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits

SETTINGS = Settings(max_bytes="20%", epochs=1, latency_batch_sizes=(1, 8), quick=True)


def loaded(checkpoint: Path, data: Path) -> tuple[Program, Task]:
    model = load_model(checkpoint, None, {})
    return model.program, make_task(model, data, (), SETTINGS)


@pytest.fixture(scope="module")
def inputs(checkpoint: Path, clicks_file: Path) -> ScoreInputs:
    program, task = loaded(checkpoint, clicks_file)
    return make_score_inputs(program, task)


@pytest.fixture(scope="module")
def dense_bytes(inputs: ScoreInputs) -> int:
    limit = Settings(max_bytes="50%").pruning.byte_limit
    assert limit is not None
    return 2 * resolve_byte_limit(inputs.program, limit)


@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_the_counted_file_of_a_plan_has_no_more_bytes_than_allowed(
    fraction: float, inputs: ScoreInputs, dense_bytes: int
) -> None:
    limit = int(fraction * dense_bytes)
    plan = plan_within_bytes(inputs.program, SETTINGS.pruning, inputs, limit).plan
    assert plan.storage is not None
    assert 0.9 * limit < plan.storage.point.bytes <= limit
    assert plan.storage.bound <= plan.storage.point.loss
    losses = [point.loss for point in sorted((*plan.storage.curve, plan.storage.point), key=lambda p: p.bytes)]
    assert losses == sorted(losses, reverse=True)


def test_a_plan_with_bits_is_json_and_the_same_again(inputs: ScoreInputs, dense_bytes: int) -> None:
    plan = plan_within_bytes(inputs.program, SETTINGS.pruning, inputs, dense_bytes // 4).plan
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan_within_bytes(inputs.program, SETTINGS.pruning, inputs, dense_bytes // 4).plan == plan


def test_remaps_of_shared_rows_are_no_tables_with_bits(checkpoint: Path, clicks_file: Path) -> None:
    program, task = loaded(checkpoint, clicks_file)
    shared = share_planned_rows(program, plan_rows(program, 0.3, task), task)
    assert shared.analysis.tables - shared.parameters().keys()
    candidate = make_candidates(shared, make_score_inputs(shared, task), 16)[0]
    allocation = candidate.choices.allocate(20_000)
    assert allocation is not None
    assert allocation.table_bits.keys() <= candidate.projected.program.parameters().keys()


def test_a_limit_below_the_smallest_file_is_refused_with_the_smallest(inputs: ScoreInputs) -> None:
    with pytest.raises(UsageError, match="too little for this model"):
        plan_within_bytes(inputs.program, SETTINGS.pruning, inputs, 4_000)


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
