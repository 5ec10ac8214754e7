"""The same inputs give bundles with the same plans, answers and sizes as the release that wrote the golden files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recprune_export.onnx import make_session, run
from tests.golden.jobs import FOLDER, JOBS, Job, bundle_facts, run_job

RELATIVE = 1e-3  # of the root mean square of an output: tuning amplifies the rounding of another CPU


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: job.recommender)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    job: Job = request.param
    return job, run_job(job, tmp_path_factory.mktemp("golden"))


def facts(job: Job) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{job.recommender}_bundle.json").read_text()))


def test_the_plan_is_the_same(case: tuple[Job, Path]) -> None:
    job, bundle = case
    assert bundle_facts(bundle)["plan"] == facts(job)["plan"]


def test_the_file_is_of_the_same_size_and_operators(case: tuple[Job, Path]) -> None:
    job, bundle = case
    now, golden = bundle_facts(bundle), facts(job)
    for fact in ("weight_bytes", "operators", "outputs"):
        assert now[fact] == golden[fact]
    assert now["file_bytes"] == pytest.approx(golden["file_bytes"], rel=0.02)  # names of nodes are no weights


def test_golden_requests_get_the_golden_answers(case: tuple[Job, Path]) -> None:
    job, bundle = case
    with np.load(FOLDER / f"{job.recommender}_requests.npz") as requests:
        answers = run(make_session(bundle / "model.onnx", 1), dict(requests))
    with np.load(FOLDER / f"{job.recommender}_answers.npz") as golden:
        for name in golden.files:
            scale = float(np.sqrt(np.mean(np.square(golden[name]))))
            np.testing.assert_allclose(answers[name], golden[name], rtol=0, atol=RELATIVE * scale)
