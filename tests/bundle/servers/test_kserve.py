"""The samples are a request and the answer that ONNX Runtime gives to it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recprune_export.bundle.servers import kserve
from recprune_export.onnx import make_session, run
from tests.bundle.complete import SIGNATURE, answer, request, write

DTYPES = {"BOOL": "bool", "INT64": "int64", "INT32": "int32", "FP32": "float32", "FP64": "float64", "FP16": "float16"}


def array(tensor: dict[str, Any]) -> np.ndarray:
    return np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def to_model(tensor: dict[str, Any]) -> np.ndarray:
    """As Triton does by `reshape`: what the signature has one number of for each row comes as [rows, 1]."""
    rank = next(len(t.shape) for t in (*SIGNATURE.inputs, *SIGNATURE.outputs) if t.name == tensor["name"])
    values = array(tensor)
    return values.reshape(values.shape[:rank])


def test_the_request_gives_the_response(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    asked, said = (json.loads((bundle / name).read_text()) for name in (kserve.REQUEST, kserve.RESPONSE))
    answered = run(make_session(bundle / "model.onnx", 1), {t["name"]: to_model(t) for t in asked["inputs"]})
    assert [o["name"] for o in asked["outputs"]] == [o["name"] for o in said["outputs"]] == list(answered)
    for tensor in said["outputs"]:
        np.testing.assert_allclose(to_model(tensor), answered[tensor["name"]], rtol=1e-6)
    assert asked["id"] == said["id"]
    assert all(len(t["data"]) == np.prod(t["shape"]) for t in (*asked["inputs"], *said["outputs"]))


@pytest.mark.parametrize("dtype", sorted(DTYPES.values()))
def test_numbers_survive_bit_for_bit(dtype: str) -> None:
    values = np.random.default_rng(0).normal(scale=1e3, size=(7, 3)).astype(dtype)
    made = json.loads(kserve.kserve_samples("m", {"x": values}, {"y": values[:, 0]}, batched=True)[kserve.REQUEST])
    assert np.array_equal(array(made["inputs"][0]), values)


def test_shapes_are_the_models_own_where_no_batches_are_made() -> None:
    shapes = {}
    for batched in (True, False):
        made = json.loads(kserve.kserve_samples("m", request(), answer(request()), batched=batched)[kserve.REQUEST])
        shapes[batched] = [tensor["shape"] for tensor in made["inputs"]]
    assert shapes == {True: [[5, 1], [5, 3], [5, 2]], False: [[5], [5, 3], [5, 2]]}


def test_an_answer_that_json_does_not_know_is_no_sample() -> None:
    assert kserve.kserve_samples("m", request(), {"y": np.array([np.nan])}, batched=False) == {}
