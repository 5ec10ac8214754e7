"""Everything that the README of a bundle shows is executed, for each kind of bundle; what a bundle refuses is not shown."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import pack, read_manifest
from recprune_export.bundle.archive.unpacking import unpack
from recprune_export.bundle.servers import select_server_files
from recprune_export.data import SchemaOverrides
from recprune_export.pipeline.towers import split_bundle
from recprune_export.training import train
from tests.bundle.pbtxt import parse
from tests.bundle.servers.serving.served import serve
from tests.jobs import QUICK, invoke
from tests.test_api_jagged import EXAMPLE, Dlrm, make_rows

FAST = QUICK.with_options(epochs=0, quick=True)
WORDS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Kind:
    """A bundle with what its README is expected to name; `rows`: a file that `predict` takes, where the README names `predict`."""

    path: Path
    rows: Path | None
    has_raw_rows: bool
    triton_batch: int


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(300, 16), nn.Embedding(200, 16)
        self.mlp = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        pair = torch.cat([self.users(user), self.items(item).expand(len(user), -1)], -1)
        score: torch.Tensor = self.mlp(pair).squeeze(-1)
        return score


def make_checkpoint(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    compress(checkpoint, target=folder / "b", data=clicks, settings=FAST, raw_inputs=True, max_batch=512)
    return Kind(folder / "b", clicks, True, 512)


def make_shared(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    compress(checkpoint, target=folder / "b", data=clicks, settings=FAST, shared_inputs=("user",))
    return Kind(folder / "b", None, True, 0)


def make_histories(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    train(sequences, "sasrec", folder / "m.pt", SchemaOverrides(), {"dim": 8}, epochs=1)
    compress(
        folder / "m.pt", target=folder / "b", data=sequences, settings=FAST, top_k=5, exclude_seen=True, raw_inputs=True
    )
    return Kind(folder / "b", None, True, 4096)


def make_module(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    compress(Ranker(), {"user": torch.arange(4), "item": torch.arange(4)}, folder / "b", settings=FAST)
    return Kind(folder / "b", None, False, 4096)


def make_jagged(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    make_rows().write_parquet(folder / "rows.parquet")
    compress(Dlrm(), EXAMPLE, folder / "b", data=folder / "rows.parquet", labels="clicked", settings=FAST)
    return Kind(folder / "b", None, False, 0)


def make_padded(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    compress(Dlrm(), EXAMPLE, folder / "b", settings=FAST, padded=6)
    return Kind(folder / "b", None, False, 4096)


def make_packed(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    compress(checkpoint, target=folder / "first", data=clicks, settings=FAST)
    pytest.importorskip("zstandard")
    unpack(pack(folder / "first"), folder / "b")
    return Kind(folder / "b", clicks, True, 4096)


def make_towers(folder: Path, checkpoint: Path, clicks: Path, sequences: Path) -> Kind:
    overrides = SchemaOverrides(labels=("clicked",))
    train(clicks, "two_tower", folder / "m.pt", overrides, {"dim": 8, "hidden": (16, 8)}, epochs=1)
    compress(folder / "m.pt", target=folder / "b", data=clicks, settings=FAST)
    split_bundle(folder / "b")
    return Kind(folder / "b", clicks, True, 4096)


KINDS: dict[str, Callable[[Path, Path, Path, Path], Kind]] = {
    "checkpoint": make_checkpoint, "shared inputs": make_shared, "histories": make_histories, "module": make_module,
    "jagged": make_jagged, "padded": make_padded, "packed": make_packed,
    "towers": make_towers,
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    clicks_file: Path,
    sequences_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kind:
    torch.manual_seed(0)
    return KINDS[request.param](tmp_path_factory.mktemp("kind"), checkpoint, clicks_file, sequences_file)


def read(kind: Kind) -> str:
    return (kind.path / "README.md").read_text()


def list_commands(text: str) -> list[str]:
    """Return the commands in the text and in blocks of the shell, each once."""
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text).replace(r"\`", "`"))
    words = (
        "recprune-export ",
        "recprune_export ",
        "python ",
        "pip ",
        "tritonserver",
        "curl",
        "docker",
        "node",
        "openssl",
    )
    blocks = [line for language, block in FENCE.findall(text) if language == "sh" for line in block.splitlines()]
    return list(dict.fromkeys([*(span for span in spans if span.startswith(words)), *blocks]))


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as values:
        return dict(values)


def to_numbers(values: Any) -> np.ndarray:
    flat = np.array(values, dtype=object)
    return np.array([WORDS.get(v, v) if isinstance(v, str) else v for v in flat.ravel()], dtype=float).reshape(
        flat.shape
    )


@pytest.mark.slow
def test_the_code_gives_the_golden_answer(kind: Kind) -> None:
    names: dict[str, Any] = {}
    codes = [block for language, block in FENCE.findall(read(kind)) if language == "python"]
    assert codes
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(kind.path)
        for code in codes:
            exec(code, names)
    for name, values in load(kind.path / "samples/outputs.npz").items():
        np.testing.assert_allclose(names["response"][name], values, atol=1e-4)


@pytest.mark.slow
def test_each_command_runs(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kind.path)
    text, requests, served_files = read(kind), [], ["model.onnx"]
    for command in list_commands(text):
        words = command.split()
        if words[:2] == ["recprune-export", "verify"]:
            assert invoke("verify", ".").exit_code == 0
        elif words[:2] == ["recprune-export", "predict"]:
            assert kind.rows is not None
            replaced = {"rows.parquet": kind.rows, "scores.parquet": tmp_path / "scores.parquet"}
            done = invoke(*[replaced.get(word, word) for word in words[1:]])
            assert done.exit_code == 0, done.stderr
            assert pl.read_parquet(tmp_path / "scores.parquet").height == pl.read_parquet(kind.rows).height
        elif words[:2] == ["recprune-export", "report"]:
            done = invoke("report", ".", "-o", tmp_path / "report.html")
            assert done.exit_code == 0, done.stderr
        elif command == "recprune-export compress --padded N":
            assert kind.triton_batch == 0
        elif words[0] == "python":
            assert words[1] == "serve_onnxruntime.py"
            served_files += [] if len(words) == 2 else [words[words.index("--file") + 1]]
        elif words[0] == "curl":
            requests.append(command)
        elif words[0] == "tritonserver":
            assert command == "tritonserver --model-repository=$PWD/triton"
        else:
            assert words[:2] == ["pip", "install"], command
    assert len(requests) == 2
    with serve(kind.path) as served:
        for command in requests:
            check_answer(kind.path, run_curl(command, served.port), command)
    for file in set(served_files) - {"model.onnx"}:
        stem = file.removesuffix(".onnx")
        with serve(kind.path, "--file", file) as served:
            assert f"`{served.model}`" in text
            asked, golden = (
                json.loads((kind.path / f"samples/{stem}-kserve-{end}.json").read_text())
                for end in ("request", "response")
            )
            status, answered = served.infer(asked)
        assert status == 200, answered
        compare(answered, golden)
    assert set(served_files) == {"model.onnx", *read_manifest(kind.path).models}


def run_curl(command: str, port: int) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["sh", "-c", command.replace("curl", "curl -sS --fail-with-body", 1).replace(":8000", f":{port}")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def check_answer(bundle: Path, answered: Any, command: str) -> None:
    sample = re.search(r"@(\S+)-request\.json", command)
    assert sample is not None
    compare(answered, json.loads((bundle / f"{sample[1]}-response.json").read_text()))


def compare(answered: Any, golden: Any) -> None:
    if isinstance(golden["outputs"], dict):
        pairs = {name: (answered["outputs"][name], values) for name, values in golden["outputs"].items()}
    else:
        assert answered["model_name"] == golden["model_name"]
        pairs = {g["name"]: (a["data"], g["data"]) for a, g in zip(answered["outputs"], golden["outputs"], strict=True)}
        assert [a["shape"] for a in answered["outputs"]] == [g["shape"] for g in golden["outputs"]]
    for first, second in pairs.values():
        if isinstance(second[0], str) and second[0] not in WORDS:  # item ids
            assert first == second
            continue
        np.testing.assert_allclose(to_numbers(first), to_numbers(second), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_predict_is_named_where_it_takes_rows_for_an_encoding(kind: Kind, clicks_file: Path, tmp_path: Path) -> None:
    named = "recprune-export predict" in read(kind)
    assert named == (kind.rows is not None)
    if kind.has_raw_rows and not named:
        done = invoke("predict", kind.path, "--data", clicks_file, "-o", tmp_path / "scores.parquet")
        assert done.exit_code == 2


@pytest.mark.slow
def test_raw_values_are_named_where_they_are_taken(kind: Kind) -> None:
    assert ("which takes raw values" in read(kind)) == kind.has_raw_rows
    body = json.loads((kind.path / "samples/predict-request.json").read_text())
    assert list(body) == (["rows"] if kind.has_raw_rows else ["inputs"])


@pytest.mark.slow
def test_triton_batches_where_rows_are_independent_and_the_golden_request_fits(kind: Kind) -> None:
    text = read(kind)
    (config,) = [parse(path.read_text()) for path in kind.path.glob("triton/*/config.pbtxt")]
    assert config.max_batch_size == kind.triton_batch
    assert (f"batches of up to {kind.triton_batch:,} rows" in text) == bool(kind.triton_batch)
    assert ("each request separately" in text) == (not kind.triton_batch)
    name = "triton" if (kind.path / "samples/triton-request.json").exists() else "kserve"
    assert ("samples/triton-request.json" in text) == (name == "triton")
    asked = json.loads((kind.path / f"samples/{name}-request.json").read_text())
    shapes = {tensor["name"]: tensor["shape"] for tensor in asked["inputs"]}
    for tensor in config.input:
        dims = [*([None] if kind.triton_batch else []), *(None if n == -1 else n for n in tensor.dims)]
        assert len(dims) == len(shapes[tensor.name])
        assert all(n in (None, m) for n, m in zip(dims, shapes[tensor.name], strict=True))
        if kind.triton_batch:
            assert shapes[tensor.name][0] <= kind.triton_batch


@pytest.mark.slow
def test_the_arguments_of_the_program_are_positional_in_the_order_of_the_readme(kind: Kind) -> None:
    stated = re.search(r"its arguments are positional, in this order: ((?:`[^`]+`(?:, )?)+)", read(kind))
    assert stated is not None
    names = re.findall(r"`([^`]+)`", stated[1])
    module = torch.export.load(kind.path / "model.pt2").module()
    request = load(kind.path / "samples/inputs.npz")
    rows = max(len(values) for values in request.values())
    arguments: dict[str, np.ndarray] = {}
    for name in names:
        base = name.removesuffix("_lengths")
        if name == base:
            values = request[name]
            arguments[name] = np.repeat(values, rows, axis=0) if len(values) == 1 < rows else values
        elif "offsets" in request:  # of the model's own request
            ends = [*request["offsets"][int(base[-1])], len(request[base])]
            arguments[name] = np.diff(ends)
        else:
            present = request[base] >= 0
            arguments |= {base: request[base][present], name: present.sum(1)}
    tensors = [torch.from_numpy(arguments[name]) for name in names]
    with torch.no_grad():
        answer = module(*tensors)
    first = (
        next(iter(answer.values()))
        if isinstance(answer, dict)
        else answer[0]
        if isinstance(answer, tuple | list)
        else answer
    )
    np.testing.assert_allclose(first, next(iter(load(kind.path / "samples/outputs.npz").values())), atol=1e-4)


@pytest.mark.slow
def test_each_file_that_it_names_is_there(kind: Kind) -> None:
    spans = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", FENCE.sub("", read(kind))))
    names = {span for span in spans if re.search(r"\.(onnx|json|npz|pt2|html|yaml|data|py)$|/$", span)}
    assert {"samples/inputs.npz", "manifest.json", "model.pt2"} <= names
    assert not [name for name in names if not (kind.path / name).exists()]


@pytest.mark.slow
def test_the_files_for_servers_are_read_back(kind: Kind) -> None:
    servers = select_server_files({name: kind.path / name for name in read_manifest(kind.path).files})
    assert servers.triton_batch == kind.triton_batch
    assert {
        "serve_onnxruntime.py",
        "samples/kserve-request.json",
        "kserve/inference-service.yaml",
    } <= servers.files.keys()
    assert "samples/inputs.npz" not in servers.files
