"""`recprune-export model.onnx`: the whole job, whose dense model is the given file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto

from recprune_export.bundle import verify
from tests.gate.odd_files import FLOAT, model, node
from tests.gate.odd_files import save as save_odd
from tests.jobs import assert_refused, invoke
from tests.program.loading.onnx_graphs import exported
from tests.program.loading.onnx_graphs.exported import Histories, dlrm_request, make_dlrm
from tests.program.loading.onnx_graphs.test_convert_onnx import make_unknown

QUICK = ["--epochs", "1", "--quick", "--sparsity", "0.5", "--quiet"]


def make_labeled_rows(path: Path) -> Path:
    """Rows of the DLRM with a label that depends on them, and their split."""
    numbers, ids = dlrm_request(600)
    chance = torch.sigmoid(numbers[:, 0] + (ids[:, 0] % 2) - 0.5).numpy()
    label = (np.random.default_rng(0).random(600) < chance).astype(np.float32)
    split = np.array(["train"] * 400 + ["valid"] * 100 + ["test"] * 100)
    np.savez(path, numbers=numbers.numpy(), ids=ids.numpy(), label=label, split=split)
    return path


def test_a_dlrm_with_rows(tmp_path: Path) -> None:
    path = exported.save(make_dlrm(), dlrm_request(), tmp_path / "m.onnx", ["numbers", "ids"], 11)
    rows = make_labeled_rows(tmp_path / "rows.npz")
    done = invoke(path, "--data", rows, "--label", "label", "-o", tmp_path / "b", *QUICK)
    assert done.exit_code == 0, done.output
    verify(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    given = path.read_bytes()
    assert (tmp_path / "b" / "dense.onnx").read_bytes() == given
    assert manifest["files"]["dense.onnx"]["sha256"] == hashlib.sha256(given).hexdigest()
    assert manifest["metrics"]["dense"].keys() == manifest["metrics"]["pruned"].keys() != set()
    counts = manifest["counts"]
    assert counts["pruned"]["operations"] < counts["dense"]["operations"]
    assert counts["pruned"]["tables"]["parameters"] < counts["dense"]["tables"]["parameters"] == 90 * exported.DIM


def test_a_file_of_keras_layers(tmp_path: Path) -> None:
    """`tf2onnx` writes layers as MatMul and Add, casts ids, and computes shapes in int32."""
    random = np.random.default_rng(0)
    weights = {
        "model/user/embeddings:0": random.normal(size=(50, 8)).astype(np.float32),
        "model/item/embeddings:0": random.normal(size=(40, 8)).astype(np.float32),
        "model/dense/kernel:0": random.normal(size=(16, 16)).astype(np.float32),
        "model/dense/bias:0": random.normal(size=16).astype(np.float32),
        "model/score/kernel:0": random.normal(size=(16, 1)).astype(np.float32),
        "model/score/bias:0": random.normal(size=1).astype(np.float32),
        "zero": np.array([0]), "one": np.array([1]), "width": np.array([16], np.int32),
    }  # fmt: skip
    nodes = [
        node("Cast", "user:0", "u", to=TensorProto.INT32),
        node("Gather", "model/user/embeddings:0 u", "U"),
        node("Gather", "model/item/embeddings:0 item:0", "I"),
        node("Concat", "U I", "c", axis=-1),
        node("Shape", "c", "s"),
        node("Cast", "s", "s32", to=TensorProto.INT32),
        node("Slice", "s32 zero one zero", "rows"),
        node("Concat", "rows width", "shape32", axis=0),
        node("Cast", "shape32", "shape", to=TensorProto.INT64),
        node("Reshape", "c shape", "r"),
        node("MatMul", "r model/dense/kernel:0", "m"),
        node("Add", "m model/dense/bias:0", "a"),
        node("Relu", "a", "h"),
        node("MatMul", "h model/score/kernel:0", "z"),
        node("Add", "z model/score/bias:0", "logit"),
        node("Sigmoid", "logit", "Identity:0"),
    ]
    inputs = {"user:0": (TensorProto.INT64, ["unk__1"]), "item:0": (TensorProto.INT32, ["unk__2"])}
    path = save_odd(
        model(nodes, inputs, {"Identity:0": (FLOAT, ["unk__3", 1])}, weights, opset=13), tmp_path / "m.onnx"
    )
    done = invoke(path, "-o", tmp_path / "b", *QUICK)
    assert done.exit_code == 0, done.output
    assert verify(tmp_path / "b").outputs[0].name == "Identity:0"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "GRU"])
def test_a_model_of_histories(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    history = (torch.randint(0, exported.ITEMS, (4, exported.LENGTH)),)
    path = exported.save(Histories(kind), history, tmp_path / "m.onnx", ["history"], 14)
    done = invoke(path, "-o", tmp_path / "b", *QUICK)
    assert done.exit_code == 0, done.output
    verify(tmp_path / "b")


def test_refusals_have_their_exit_codes(tmp_path: Path) -> None:
    assert_refused(invoke(save_odd(make_unknown(), tmp_path / "m.onnx")), 4, "Det (node 'determinant')")
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x0a\x12")
    assert_refused(invoke(tmp_path / "damaged.onnx"), 3, "cannot be read as an ONNX model")
