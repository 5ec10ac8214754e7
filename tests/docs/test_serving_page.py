"""The snippets of docs/serving.md run, each in its own runtime, and give the golden answer of a bundle."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundle.complete import write
from tests.bundle.servers.runtimes import find_mlserver, find_node_modules, find_openvino
from tests.bundle.servers.serving.served import serve
from tests.bundle.servers.test_readme_commands import check_answer, run_curl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")


def read_block(section: str, language: str, number: int = 0) -> str:
    """Return a block of code of the section."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number].replace("ctr", "sum")


def run(command: list[Any], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def check_golden(bundle: Path, values: list[float]) -> None:
    np.testing.assert_allclose(values, np.load(bundle / "samples/outputs.npz")["y"], rtol=1e-5)


def test_the_sections_of_the_table_are_there() -> None:
    anchors = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    headings = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    }
    assert len(anchors) >= 11
    assert set(anchors) <= headings


def test_the_runtime_of_mlserver_is_the_tested_one() -> None:
    tested = (ROOT / "tests/bundle/servers/mlserver_onnx.py").read_text()
    assert tested.partition('"""\n\n')[2] == read_block("mlserver", "python")
    settings = json.loads(read_block("mlserver", "json"))
    assert settings["implementation"] == "mlserver_onnx.OnnxModel"


@pytest.mark.slow
def test_the_commands_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(tmp_path / "bundle")
    monkeypatch.chdir(bundle)
    start = read_block("The server of the bundle", "sh").split()
    assert start[:2] == ["python", "serve_onnxruntime.py"]
    with serve(bundle) as served:
        first, second, health = read_block("The server of the bundle", "sh", 1).splitlines()
        for command in (first, second):
            check_answer(bundle, run_curl(command, served.port), command)
        assert run_curl(health, served.port) == {"ready": True}


@pytest.mark.slow
def test_node(tmp_path: Path) -> None:
    modules, bundle = find_node_modules(), write(tmp_path / "bundle")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "score.mjs").write_text(read_block("Node", "js"))
    check_golden(bundle, json.loads(run(["node", tmp_path / "score.mjs"], bundle).stdout)["y"])


@pytest.mark.slow
def test_the_web(tmp_path: Path) -> None:
    modules, bundle = find_node_modules(), write(tmp_path / "bundle")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "score.mjs").write_text(read_block("The web", "js"))
    check_golden(bundle, json.loads(run(["node", tmp_path / "score.mjs"], bundle).stdout)["y"])


@pytest.mark.slow
def test_openvino(tmp_path: Path) -> None:
    path, bundle = find_openvino(), write(tmp_path / "bundle")
    code = read_block("OpenVINO", "python") + "import json; print(json.dumps(response['y'].tolist()))"
    done = run([sys.executable, "-c", code], bundle, PYTHONPATH=str(path))
    check_golden(bundle, json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_fastapi(tmp_path: Path) -> None:
    python, bundle = find_mlserver(), write(tmp_path / "bundle")  # mlserver brings FastAPI and uvicorn
    (bundle / "app.py").write_text(read_block("FastAPI and BentoML", "python"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [str(python), "-m", "uvicorn", "app:app", "--port", str(port)],
        cwd=bundle, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        body = (bundle / "samples/predict-request.json").read_bytes()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            values = json.loads(answer.read())
        check_answer(bundle, values, "@samples/predict-request.json")
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert not (bundle / "serving/__pycache__").exists()
