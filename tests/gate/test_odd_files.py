"""Plain ONNX files of every kind that ONNX Runtime runs: `check` asks them, or says in one sentence why it cannot."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from recprune_export.errors import InputFileError, ModelFileError
from recprune_export.gate import open_artifact
from recprune_export.gate._check import check_answers
from recprune_export.gate.compatibility import make_common_signature
from recprune_export.gate.latency.sequential_sampling import sample_latency
from recprune_export.onnx import SessionOptions
from tests.gate.models import Shape
from tests.gate.models import model as small
from tests.gate.odd_files import ANSWERED, REFUSED, make_if, save

ROOT = Path(__file__).parents[2]


def ask(path: Path) -> None:
    """All that `check` does with a file before it measures."""
    artifact = open_artifact(path)
    signature = make_common_signature(artifact.signature, artifact.signature)
    assert signature is not None
    check_answers(artifact, signature)


@pytest.mark.parametrize("make", ANSWERED.values(), ids=ANSWERED.keys())
def test_what_the_runtime_runs_is_asked(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    path = save(make(), tmp_path / "m.onnx")
    ask(path)
    artifact = open_artifact(path)
    assert artifact.counts.nodes > 0
    assert artifact.bytes == path.stat().st_size


@pytest.mark.parametrize("make", [ANSWERED[kind] for kind in ("Loop", "scalar", "no batch", "function", "float16")])
def test_it_is_timed_as_well(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    path = save(make(), tmp_path / "m.onnx")
    model = (str(path), SessionOptions().to_dict())
    sample = sample_latency(
        {"NEW": model, "BASE": model}, open_artifact(path).signature.to_dict(), [1, 8], 1, "NEW", seed=0
    )
    assert all(np.isfinite(batch["log_ratio"]) for batch in sample.values())


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_asked_is_refused_in_one_sentence(
    make: Callable[[], onnx.ModelProto], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError) as raised:
        ask(save(make(), tmp_path / "m.onnx"))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "onnxruntime_src" not in str(raised.value)


SIZES = st.one_of(st.integers(0, 3), st.sampled_from(["batch", "N", "unk__1", "", "batch*2"]), st.none())
INPUTS = st.lists(
    st.tuples(
        st.sampled_from(sorted(TensorProto.DataType.values())), st.one_of(st.none(), st.lists(SIZES, max_size=3))
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(INPUTS, st.integers(7, 26), st.integers(3, 15), st.sampled_from(["Identity", "Cast", "Shape", "Size"]))
def test_any_interface_is_asked_or_refused(
    tmp_path: Path, inputs: list[tuple[int, list[int | str | None] | None]], opset: int, ir_version: int, operator: str
) -> None:
    attributes = {"to": TensorProto.FLOAT} if operator == "Cast" else {}
    values = [helper.make_tensor_value_info(f"x{i}", *spec) for i, spec in enumerate(inputs)]
    nodes = [helper.make_node(operator, [v.name], [f"y{i}"], **attributes) for i, v in enumerate(values)]
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes]
    graph = helper.make_graph(nodes, "g", values, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    said = []
    try:
        ask(save(made, tmp_path / "m.onnx"))
    except InputFileError as error:
        said.append(str(error))
    assert "\n" not in "".join(said)


EXTERNAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "tables": lambda: small(Shape(rows=500)),
    "branches": make_if,
    **{kind: ANSWERED[kind] for kind in ("plain", "opset 7", "weights as inputs", "output is a weight")},
}


def save_outside(made: onnx.ModelProto, path: Path, location: str = "w.bin") -> Path:
    """Save with all weights in `location`, beside the model."""
    path.parent.mkdir(exist_ok=True)
    onnx.save(made, path, save_as_external_data=True, location=location, size_threshold=0, convert_attribute=True)
    return path


@pytest.mark.parametrize("make", EXTERNAL.values(), ids=EXTERNAL.keys())
def test_weights_lie_beside_the_model_wherever_the_program_runs(
    make: Callable[[], onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_outside(make(), tmp_path / "model" / "m.onnx")
    whole = open_artifact(save(make(), tmp_path / "whole.onnx"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "w.bin").write_bytes(bytes(1 << 16))  # zeros under the same name
    monkeypatch.chdir(elsewhere)
    artifact = open_artifact(Path("../model/m.onnx"))
    assert (artifact.counts.total, artifact.counts.operations) == (whole.counts.total, whole.counts.operations)
    assert artifact.bytes == path.stat().st_size + (path.parent / "w.bin").stat().st_size
    ask(Path("../model/m.onnx"))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "", "sub/../../w.bin"])
def test_weights_elsewhere_are_refused_unread(location: str, tmp_path: Path) -> None:
    path = save_outside(small(), tmp_path / "model" / "m.onnx")
    (tmp_path / "w.bin").write_bytes((path.parent / "w.bin").read_bytes())
    made = onnx.load(path, load_external_data=False)
    for tensor in made.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    with pytest.raises(ModelFileError, match="outside its folder"):
        ask(save(made, path))


def test_a_link_to_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    path = save_outside(small(), tmp_path / "model" / "m.onnx")
    (path.parent / "w.bin").rename(tmp_path / "w.bin")
    (path.parent / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelFileError, match="outside its folder"):
        ask(path)


def test_weights_of_a_linked_model_lie_beside_the_link(tmp_path: Path) -> None:
    path = save_outside(small(), tmp_path / "model" / "m.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    with pytest.raises(ModelFileError, match="which does not exist"):
        ask(link)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tables", "branches"])
def test_the_command_compares_files_with_external_weights(kind: str, tmp_path: Path) -> None:
    path = save_outside(EXTERNAL[kind](), tmp_path / "model" / "m.onnx")
    command = [
        sys.executable,
        "-m",
        "recprune_export",
        "check",
        str(path),
        "--against",
        os.path.relpath(path, tmp_path),
    ]
    options = ["--time-limit", "0", "--latency-batch-sizes", "1", "--max-regression", "900%", "--undecided", "pass"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Verdict: holds" in done.stdout
