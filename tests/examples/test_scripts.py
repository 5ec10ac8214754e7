"""Each example runs, and comes to what it says."""

import importlib.util
import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from recprune_export.bundle import verify, write_bundle
from tests.bundle.samples import files, manifest, write

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONAL = ("pyarrow", "pyspark", "ray")  # libraries that no extra of the tests installs
SCRIPTS = sorted(EXAMPLES.rglob("*.py"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names_of(script: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / script), run_name="example")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_it_imports_is_there_and_it_says_how_it_is_run(script: Path) -> None:
    try:
        names = runpy.run_path(str(script), run_name="example")
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert callable(names["main"])
    assert re.search(rf"python \S*{re.escape(script.name)}", names["__doc__"])


@pytest.mark.slow
def test_a_module_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    names_of("your_own_model.py")["main"]()
    assert verify(Path("artifacts/your_own_model")).rows > 0
    assert "score:" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_deepfm_of_deepctr_torch(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("deepctr_torch") is None:
        pytest.skip("DeepCTR-Torch is not installed: pip install deepctr-torch")
    names_of("deepctr_torch_deepfm.py")["main"]()
    values = json.loads(Path("artifacts/deepfm/manifest.json").read_text())
    dense, pruned = (values["metrics"][name]["auc"] for name in ("dense", "pruned"))
    assert dense > 0.55, "it has learned something"
    assert pruned > dense - 0.03
    assert "score:" in capsys.readouterr().out
    assert verify(Path("artifacts/deepfm")).rows > 0


@pytest.mark.slow
def test_sasrec_on_purchases(capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of("sasrec_purchases.py")
    names["main"](["--epochs", "1"])
    bundle = Path("artifacts/sasrec")
    assert verify(bundle).rows > 0
    bought = json.loads((bundle / "encoding.json").read_text())["items"][:2]
    found = names["recommend"](bundle, [bought[0], "a product that is new", bought[1]], 7)
    assert len(set(found) - set(bought)) == 7
    assert "will buy:" in capsys.readouterr().out


def test_the_ids_of_the_sasrec_example_are_those_of_the_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import polars as pl

    from recprune_export.data import HISTORY, Schema, SequenceColumns, SequenceEncoder, Vocabulary

    encoder = SequenceEncoder(
        Schema(sequence=SequenceColumns("u", "i", "t", max_length=4)), Vocabulary(["x", "y", "z"], 1)
    )
    (tmp_path / "encoding.json").write_text(json.dumps(encoder.to_dict()))
    asked: list[np.ndarray] = []

    class Session:
        """Likes the last product best, then the first."""

        def __init__(self, *arguments: object, **options: object) -> None: ...

        def get_inputs(self) -> list[Any]:
            return [type("Input", (), {"name": "history", "shape": ["batch", 4]})]

        def run(self, names: object, request: dict[str, np.ndarray]) -> list[np.ndarray]:
            asked.append(request["history"])
            return [np.array([[9.0, 2.0, 1.0, 3.0]])]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    found = names_of("sasrec_purchases.py")["recommend"](tmp_path, ["y", "new"], 2)
    log = pl.DataFrame({"u": [1, 1], "i": ["y", "new"], "t": [0, 1]})
    assert asked[0].tolist() == encoder.encode(log)[HISTORY].tolist()
    assert found == ["z", "x"]


def test_the_gate_passes_what_is_the_same_and_writes_what_a_ci_reads(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("base"))
    write(Path("new"))
    assert names_of("ci/gate.py")["main"](["new", "base"]) in (0, 5), capsys.readouterr().err
    assert "<testsuite" in Path("gate.xml").read_text()
    assert "latency" in Path("gate.md").read_text()


@pytest.mark.slow
def test_the_gate_refuses_what_is_larger_and_what_is_beyond_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("base"))
    larger = onnx.load(Path("base/model.onnx"))
    larger.graph.initializer.append(numpy_helper.from_array(np.ones(5000, np.float32), "more"))
    write_bundle(Path("new"), {**files(), "model.onnx": larger.SerializeToString()}, manifest())
    names = names_of("ci/gate.py")
    assert names["main"](["new", "base"]) == 1
    assert "size" in capsys.readouterr().err
    with pytest.raises(Exception, match=r"more than the 10|leave open"):
        names["gate"](Path("base"), Path("base"), time_limit=2.0, budget=10)


def test_the_gate_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    names = names_of("ci/gate.py")
    assert names["main"](["one"]) == 2
    assert "NEW BASE" in capsys.readouterr().err
    assert names["main"](["nothing", "there"]) == 3
