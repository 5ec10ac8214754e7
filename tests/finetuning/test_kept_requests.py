"""Rows that a bundle keeps: the calibration of the job, in its order."""

from itertools import islice

import numpy as np
import pytest
import torch

from recprune_export.data import Rows
from recprune_export.data.arrays import ArrayData
from recprune_export.finetuning import FineTuningConfig, LabeledRows, make_objective
from recprune_export.finetuning.kept_requests import KeptRequests, keep_requests
from recprune_export.pipeline.choose_input_rules import with_input_rules
from tests.pruning.models import scorer

PROGRAM = scorer()
CONFIG = FineTuningConfig(1, 1e-3, 64)


def labeled(count: int = 300) -> LabeledRows:
    rng = np.random.default_rng(0)
    inputs = {"user": rng.integers(0, 50, count), "item": rng.integers(0, 30, count)}
    rows = Rows(inputs, {"click": rng.integers(0, 2, count).astype(np.float32)})
    return LabeledRows(ArrayData(rows, rows, rows), make_objective(PROGRAM, ()), CONFIG)


def kept(count: int) -> KeptRequests:
    arrays = keep_requests(labeled(), count, seed=5)
    return KeptRequests(PROGRAM, make_objective(PROGRAM, ()), CONFIG, kept=Rows(arrays, {}), rules=PROGRAM.signature)


@pytest.mark.parametrize("count", [1, 64, 100, 300, 1000])
def test_the_batches_are_those_of_the_job(count: int) -> None:
    batches = list(kept(count).training_batches(seed=9))
    assert sum(len(request["user"]) for request, _ in batches) == min(count, 300)
    for (request, labels), (expected, _) in zip(batches, labeled().training_batches(5), strict=False):
        assert labels == {}
        assert all(torch.equal(request[name], expected[name][: len(request[name])]) for name in request)


def test_tuning_takes_every_row_once_in_another_order_for_each_epoch() -> None:
    task = kept(200)
    data = task.distillation_data(PROGRAM, PROGRAM)
    first, second = (torch.cat([r["user"] for r, _ in islice(data.batches(seed), 9)]) for seed in (0, 1))
    assert len(first) == data.steps_per_epoch * 64 or len(first) == 200
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


def test_requests_are_rows_and_more_than_there_are_repeat_them() -> None:
    task = kept(50)
    rows = set(zip(*(task.kept.inputs[name].tolist() for name in ("user", "item")), strict=True))
    for count in (20, 120):
        request = task.requests(count, seed=1)
        assert len(request["user"]) == count
        assert set(zip(request["user"].tolist(), request["item"].tolist(), strict=True)) <= rows
    assert "50 training rows" in task.note
    assert np.isfinite(task.validate(PROGRAM))


def test_the_rules_of_the_job_stay() -> None:
    ruled = with_input_rules(PROGRAM, labeled(), "error")
    task = KeptRequests(PROGRAM, make_objective(PROGRAM, ()), CONFIG, kept=kept(10).kept, rules=ruled.signature)
    assert with_input_rules(PROGRAM, task, "unknown").signature == ruled.signature
