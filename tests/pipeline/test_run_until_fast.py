"""A plan whose file is slower than PyTorch is made again with less predicted time; where none is fast, both figures are said."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.errors import SlowerThanPyTorch, TooLittleTime
from recprune_export.pipeline._run_until_fast import FASTER, FASTEST, MAX_RETRIES, SlowPlan, run_until_fast
from recprune_export.pipeline.stage_checkpoints import NO_CHECKPOINTS, StageCheckpoints
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits

SETTINGS = Settings(max_bytes="10%")
FIRST = 400.0  # predicted microseconds of the plan of least loss


class Job:
    """A job whose file is as fast as PyTorch where its plan takes at most `fast` microseconds; none takes less than `least`."""

    def __init__(self, fast: float, least: float = 0.0) -> None:
        self.fast, self.least = fast, least
        self.times: list[float] = []
        self.checkpoints: list[StageCheckpoints] = []

    def __call__(self, settings: Settings, checkpoints: StageCheckpoints) -> Any:
        time = settings.pruning.max_microseconds or FIRST
        if time < self.least:
            raise TooLittleTime("none as fast")
        self.times.append(time)
        self.checkpoints.append(checkpoints)
        storage = StoragePlan(StoredBits(), 1_000, RatePoint(990, 1.0 / time, time), 0.0)
        if time > self.fast:
            finding = f"ONNX takes {time:.3f} ms and PyTorch {self.fast:.3f} ms."
            raise SlowPlan(SlowerThanPyTorch(finding, time / self.fast, (time - self.fast) / storage.rows), storage)
        return SimpleNamespace(pruned=SimpleNamespace(stages=[SimpleNamespace(plan=SimpleNamespace(storage=storage))]))


@given(st.floats(1.0, 1_000.0), st.floats(0.0, 500.0))
def test_plans_take_ever_less_time_until_one_is_fast_or_none_is_left(fast: float, least: float) -> None:
    job = Job(fast, min(least, FIRST))
    refusal, notes = "", ()
    try:
        _, notes = run_until_fast(job, SETTINGS, NO_CHECKPOINTS)
    except SlowerThanPyTorch as error:
        refusal = str(error)
    assert all(after <= FASTER * before for before, after in itertools.pairwise(job.times))
    assert bool(refusal) == (job.times[-1] > fast)
    if refusal:
        next_time = max(min(FASTER * job.times[-1], fast), FASTEST * job.times[-1])
        assert len(job.times) == MAX_RETRIES + 1 or next_time < job.least * (1 + 1e-9)
        for words in (f"ONNX takes {job.times[-1]:.3f} ms and PyTorch {fast:.3f} ms", "Allow more bytes"):
            assert words in refusal
        assert refusal.endswith("Nothing was written.")
    else:
        assert bool(notes) == (len(job.times) > 1)


def test_a_note_says_what_the_faster_plan_costs(capsys: pytest.CaptureFixture[str]) -> None:
    _, (note,) = run_until_fast(Job(350.0), SETTINGS, NO_CHECKPOINTS)
    assert "400 µs before, 300 µs now" in note
    assert "Predicted loss: 0.0025 before, 0.0033 now" in note
    assert "computed again" in capsys.readouterr().err


def test_where_reads_are_not_what_is_slow_the_remedy_is_another() -> None:
    storage = StoragePlan(StoredBits(), 1_000, RatePoint(990, 0.1, 20.0), 0.1)

    def run(settings: Settings, checkpoints: StageCheckpoints) -> Any:
        raise SlowPlan(SlowerThanPyTorch("ONNX takes 0.4 ms and PyTorch 0.3 ms.", 4 / 3, 100.0 / storage.rows), storage)

    with pytest.raises(SlowerThanPyTorch, match=r"0\.4 ms and PyTorch 0\.3 ms\. .*--latency-batch-sizes"):
        run_until_fast(run, SETTINGS, NO_CHECKPOINTS)


def test_finished_stages_are_those_of_the_first_plan() -> None:
    saved: Any = SimpleNamespace()
    job = Job(350.0)
    run_until_fast(job, SETTINGS, saved)
    assert job.checkpoints == [saved, NO_CHECKPOINTS]


def test_a_limit_of_the_settings_that_no_plan_meets_is_its_own_error() -> None:
    with pytest.raises(TooLittleTime, match="none as fast"):
        run_until_fast(Job(350.0, least=50.0), SETTINGS.with_options(max_microseconds=20.0), NO_CHECKPOINTS)


def test_another_file_that_is_slow_is_refused_at_once() -> None:
    def run(settings: Settings, checkpoints: StageCheckpoints) -> Any:
        raise SlowerThanPyTorch("ONNX takes 2 ms and PyTorch 1 ms.", 2.0, 1e3)

    with pytest.raises(SlowerThanPyTorch, match=r"^ONNX takes 2 ms and PyTorch 1 ms\. Nothing was written\.$"):
        run_until_fast(run, Settings(), NO_CHECKPOINTS)
