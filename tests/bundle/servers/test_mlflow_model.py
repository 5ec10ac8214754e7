"""The folder is an MLflow model, which MLflow opens and which gives the golden answers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from recprune_export.bundle.servers import check_mlflow_target, write_mlflow_model
from recprune_export.errors import BundleError, UsageError
from tests.bundle.complete import answer, request, write


def test_the_signature_and_the_session_are_those_of_the_bundle(tmp_path: Path) -> None:
    folder = write_mlflow_model(write(tmp_path / "bundle"), tmp_path / "deep/er/model")
    assert {path.name for path in folder.iterdir()} == {
        "MLmodel", "model.onnx", "requirements.txt", "conda.yaml", "python_env.yaml",
    }  # fmt: skip
    values = yaml.safe_load((folder / "MLmodel").read_text())
    inputs = {tensor["name"]: tensor["tensor-spec"] for tensor in json.loads(values["signature"]["inputs"])}
    assert inputs == {
        "user": {"dtype": "int64", "shape": [-1]},
        "tags": {"dtype": "int64", "shape": [-1, 3]},
        "numeric": {"dtype": "float32", "shape": [-1, 2]},
    }
    assert values["flavors"]["onnx"]["onnx_session_options"]["intra_op_num_threads"] == 1
    assert values["flavors"]["python_function"]["python_version"] == "3.11"
    assert yaml.safe_load((folder / "conda.yaml").read_text())["dependencies"][2]["pip"] == (
        (folder / "requirements.txt").read_text().split()
    )
    assert (folder / "model.onnx").read_bytes() == (tmp_path / "bundle/model.onnx").read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_mlflow_opens_it_and_its_answers_are_golden(tmp_path: Path) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc")
    exceptions = pytest.importorskip("mlflow.exceptions")
    folder = write_mlflow_model(write(tmp_path / "bundle"), tmp_path / "model")
    model = pyfunc.load_model(str(folder))
    np.testing.assert_allclose(model.predict(request())["y"], answer(request())["y"], rtol=1e-6)
    with pytest.raises(exceptions.MlflowException, match="user"):
        model.predict({**request(), "user": np.zeros(5, dtype=np.float32)})


def test_a_folder_that_is_not_empty_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name, words in (
        ("full", "is not empty"),
        ("file", "is not a folder"),
        ("link", "is not a folder"),
        ("file/x", "file"),
    ):
        with pytest.raises(UsageError, match=words):
            check_mlflow_target(tmp_path / name)
    (tmp_path / "empty").mkdir()
    write_mlflow_model(write(tmp_path / "bundle"), tmp_path / "empty")
    assert (tmp_path / "empty/MLmodel").is_file()


def test_a_damaged_bundle_leaves_nothing(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(BundleError):
        write_mlflow_model(bundle, tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == before
