"""The samples are a request and the answer that ONNX Runtime gives to it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

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


@pytest.mark.parametrize(
    ("names", "convert"),
    [((kserve.REQUEST, kserve.RESPONSE), array), ((kserve.TRITON_REQUEST, kserve.TRITON_RESPONSE), to_model)],
    ids=["own shapes", "Triton"],
)
def test_the_request_gives_the_response(
    names: tuple[str, str], convert: Callable[[dict[str, Any]], np.ndarray], tmp_path: Path
) -> None:
    bundle = write(tmp_path / "bundle")
    asked, said = (json.loads((bundle / name).read_text()) for name in names)
    answered = run(make_session(bundle / "model.onnx", 1), {t["name"]: convert(t) for t in asked["inputs"]})
    assert [o["name"] for o in asked["outputs"]] == [o["name"] for o in said["outputs"]] == list(answered)
    for tensor in said["outputs"]:
        np.testing.assert_allclose(convert(tensor), answered[tensor["name"]], rtol=1e-6)
    assert asked["id"] == said["id"]
    assert all(len(t["data"]) == np.prod(t["shape"]) for t in (*asked["inputs"], *said["outputs"]))


@pytest.mark.parametrize("dtype", sorted(DTYPES.values()))
def test_numbers_survive_bit_for_bit(dtype: str) -> None:
    values = np.random.default_rng(0).normal(scale=1e3, size=(7, 3)).astype(dtype)
    made = json.loads(kserve.make_kserve_samples("m", {"x": values}, {"y": values[:, 0]})[kserve.REQUEST])
    assert np.array_equal(array(made["inputs"][0]), values)


def test_texts_are_bytes_of_the_protocol() -> None:
    samples = kserve.make_kserve_samples("m", {"x": np.array(["a", "é"])}, {"y": np.zeros(2)}, "model.raw.onnx")
    asked, said = (json.loads(samples[f"samples/model.raw-kserve-{end}.json"]) for end in ("request", "response"))
    assert asked["inputs"] == [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["a", "é"]}]
    assert said["model_name"] == "m.raw"


def test_triton_has_samples_of_its_own_only_where_its_shapes_differ() -> None:
    asked, said = request(), answer(request())
    own = json.loads(kserve.make_kserve_samples("m", asked, said)[kserve.REQUEST])
    assert [tensor["shape"] for tensor in own["inputs"]] == [[5], [5, 3], [5, 2]]
    batched = kserve.make_triton_samples("m", asked, said, batched=True)
    assert [t["shape"] for t in json.loads(batched[kserve.TRITON_REQUEST])["inputs"]] == [[5, 1], [5, 3], [5, 2]]
    assert kserve.make_triton_samples("m", asked, said, batched=False) == {}
    wide = {"tags": asked["tags"]}, {"y": said["y"][:, None]}
    assert kserve.make_triton_samples("m", *wide, batched=True) == {}


@pytest.mark.parametrize("name", ["CTR v2", "9", "ü", "a" * 80, "--", "x" * 49 + "-y"])
def test_the_name_of_an_inference_service_is_one_of_dns(name: str) -> None:
    found = yaml.safe_load(kserve.make_inference_service(name))
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", found["metadata"]["name"])
    assert found["kind"] == "InferenceService"
    model = found["spec"]["predictor"]["model"]
    assert (model["modelFormat"], model["protocolVersion"]) == ({"name": "onnx"}, "v2")
    assert model["storageUri"] == "STORAGE_URI"
