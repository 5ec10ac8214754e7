"""Training, tuning and statistics of several processes are those of one."""

from pathlib import Path

import pytest
import torch

from recprune_export.finetuning import NonZeroTarget
from recprune_export.training import load_checkpoint
from tests.distributed.jobs_together import (
    LONG,
    WIDTH,
    gather_statistics,
    prune_in_stages,
    step_deferred,
    train_file,
    tune,
)
from tests.distributed.processes import Processes

# Before a batch-norm the gradient of a bias is rounding alone, of which Adam makes whole steps.
ROUNDING_ALONE = frozenset({"mlp.0.bias", "mlp.1.running_mean"})


# One step; and a second one on two rows, over which a batch-norm enlarges differences.
@pytest.mark.parametrize(("rows", "tolerance"), [(9, 1e-6), (11, 1e-5)])
def test_a_step_of_tuning_with_a_table_in_shards_is_that_of_one_process(
    three: Processes, rows: int, tolerance: float
) -> None:
    alone = tune(rows, 1, None, False)
    for tuned in three.call(tune, rows, 1, None, False):
        for name, value in alone.weights.items():
            if name in ROUNDING_ALONE:
                continue
            torch.testing.assert_close(tuned.weights[name], value, rtol=tolerance, atol=tolerance)
        assert tuned.losses == pytest.approx(alone.losses, rel=tolerance)
        assert tuned.metrics == pytest.approx(alone.metrics, abs=tolerance)


@pytest.mark.parametrize("with_curvature", [False, True])
def test_zeros_are_chosen_over_all_shards(three: Processes, with_curvature: bool) -> None:
    kept = LONG * WIDTH // 3
    target = NonZeroTarget(kept, 300)
    alone = tune(90, 2, target, with_curvature)
    for tuned in three.call(tune, 90, 2, target, with_curvature):
        assert tuned.zeros == alone.zeros
        assert tuned.zeros >= LONG * WIDTH - kept
        zeros, expected = (t.weights["long.weight"] == 0 for t in (tuned, alone))
        assert float((zeros == expected).double().mean()) > 0.995
        assert tuned.metrics == pytest.approx(alone.metrics, abs=2e-3)


def test_statistics_and_widths_are_those_of_one_process(two: Processes) -> None:
    moments, counts, curvature, widths = gather_statistics()
    for of_two in two.call(gather_statistics):
        assert of_two[3] == widths
        for name, matrices in moments.items():
            for matrix, expected in zip(of_two[0][name], matrices, strict=True):
                torch.testing.assert_close(matrix, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
        for name, count in counts.items():
            assert (of_two[1][name] == count).all()
        for name, expected in curvature.items():
            torch.testing.assert_close(of_two[2][name], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_a_run_goes_on_with_another_number_of_processes(two: Processes, three: Processes, tmp_path: Path) -> None:
    folder = tmp_path / ".bundle.work"
    assert two.call(prune_in_stages, folder, 1)[0] == ({}, [])
    (folder / "work.json").read_text()
    first, *others = three.call(prune_in_stages, folder, None)
    assert first[1] == ["stage-1"]
    alone, _ = prune_in_stages(None, None)
    for weights, _ in (first, *others):
        assert all(torch.equal(weights[name], value) for name, value in first[0].items())
        for name, value in alone.items():
            assert weights[name].shape == value.shape
            torch.testing.assert_close(weights[name].float(), value.float(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("recommender", ["dlrm", "neumf"])
def test_a_step_of_training_with_tables_in_shards_is_that_of_one_process(
    two: Processes, clicks_file: Path, tmp_path: Path, recommender: str
) -> None:
    one, together = tmp_path / "one.pt", tmp_path / "together.pt"
    recipe = (recommender, 500, 1e-3, 100_000, 1)
    assert train_file(clicks_file, one, *recipe) == "written"
    assert two.call(train_file, clicks_file, together, *recipe) == ["written", "left with 0"]
    first, second = load_checkpoint(one), load_checkpoint(together)
    assert first.spec == second.spec
    for name, value in first.state.items():
        torch.testing.assert_close(second.state[name], value, rtol=0, atol=1e-6)
    assert second.metrics == pytest.approx(first.metrics, abs=1e-5)
    second.build()


def test_training_with_tables_in_shards_learns_as_one_process_does(
    two: Processes, clicks_file: Path, tmp_path: Path
) -> None:
    one, together = tmp_path / "one.pt", tmp_path / "together.pt"
    recipe = ("dlrm", 500, 1e-3, 128, 2)
    train_file(clicks_file, one, *recipe)
    two.call(train_file, clicks_file, together, *recipe)
    metrics = load_checkpoint(one).metrics
    assert load_checkpoint(together).metrics == pytest.approx(metrics, abs=5e-4)


def test_deferred_steps_catch_up_in_rows_that_another_process_looked_up(two: Processes) -> None:
    expected = step_deferred(12)
    for weight in two.call(step_deferred, 12):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
