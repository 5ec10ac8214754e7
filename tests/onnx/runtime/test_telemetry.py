"""No session that we make, and none of the code that a bundle shows, lets ONNX Runtime write a device id or a log of usage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recprune_export.bundle import render_calling_code
from recprune_export.onnx import SessionOptions
from tests.gate.models import bundle

ROOT = Path(__file__).parents[3]
# ONNX Runtime sends nothing in a CI or in a test by itself, which would hide a fault.
HIDING = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY"}
MAKE_SESSION = (
    "from pathlib import Path; from recprune_export.onnx import make_session; make_session(Path('model.onnx'))"
)
MAKE_IN_MEMORY = (
    "import onnx_ir; from recprune_export.onnx.runtime.in_memory import make_in_memory_session; "
    "make_in_memory_session(onnx_ir.load('model.onnx'))"
)
VERIFY = "from recprune_export.__main__ import run; import sys; sys.argv = ['x', 'verify', '.']; run()"
MEASURE_MACHINE = "from recprune_export.onnx.cost import machine; machine._make_session(machine._make_chain(2), 1)"
SERVE = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'recprune_export/bundle/servers')!r}); sys.dont_write_bytecode = True; "
    "from serving.onnx_model import ort; ort.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])"
)


def written(code: str, folder: Path, home: Path) -> list[Path]:
    """Return what a program writes in its home, with and without a cache folder of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in HIDING}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "code",
    [MAKE_SESSION, MAKE_IN_MEMORY, VERIFY, MEASURE_MACHINE, SERVE, render_calling_code(SessionOptions())],
    ids=["make_session", "make_in_memory_session", "verify", "machine", "serve_onnxruntime.py", "README"],
)
def test_a_session_writes_nothing_in_a_fresh_home(code: str, tmp_path: Path) -> None:
    made, home = bundle(tmp_path / "bundle"), tmp_path / "home"
    home.mkdir()
    assert written(code, made, home) == []


def test_this_runtime_writes_where_nothing_forbids_it(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing; a runtime without usage data may drop both."""
    home = tmp_path / "home"
    home.mkdir()
    names = {path.name for path in written("import onnxruntime", tmp_path, home)}
    assert "deviceid" in names


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_each_example_that_imports_the_runtime_forbids_it_before(script: Path) -> None:
    text = script.read_text()
    if "import onnxruntime" in text:
        assert -1 < text.index("ORT_DISABLE_TELEMETRY") < text.index("import onnxruntime")
