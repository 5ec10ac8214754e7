"""Both wheels are built from the tree; that of the runtime does its work in a fresh environment."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import recprune_export
from tests.runtime.processes import ROOT, Runtime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both from copies, without what earlier builds left in the tree."""
    folder = tmp_path_factory.mktemp("wheels")
    return {
        name: build(project, folder / name) for name, project in {"whole": ROOT, "runtime": ROOT / "runtime"}.items()
    }


def build(project: Path, folder: Path) -> Path:
    source = folder / "source"
    shutil.copytree(ROOT / "recprune_export", source / "recprune_export", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project / file, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments: object, python: str = sys.executable) -> None:
    command = [python, "-m", "pip", "--quiet", *map(str, arguments)]
    variables = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }  # a checkout looks installed
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr


def read_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_common_files_are_equal_and_the_version_is_one(wheels: dict[str, Path]) -> None:
    whole, runtime = read_files(wheels["whole"]), read_files(wheels["runtime"])
    assert runtime.items() < whole.items()
    assert "recprune_export/report/templates/page.html" in runtime
    assert "recprune_export/py.typed" in runtime
    assert not any(name.startswith(("recprune_export/pipeline", "recprune_export/training")) for name in runtime)
    assert {wheel.name.split("-")[1] for wheel in wheels.values()} == {recprune_export.__version__}


def test_the_wheel_of_the_runtime_in_a_fresh_environment(
    wheels: dict[str, Path], bundle: Path, clicks_file: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip("install", "--constraint", ROOT / "constraints.txt", f"{wheels['runtime']}[predict]", python=python)
    runtime = Runtime(python)
    assert runtime.json("verify", bundle)["files"] > 10
    runtime.output("predict", bundle, "--data", clicks_file, "-o", tmp_path / "scores.parquet")
    limits = ("--limit", "latency=off", "--limit", "load time=off", "--limit", "peak memory=off")
    assert runtime.json("check", bundle, "--against", bundle, *limits)["verdict"] == "pass"
    assert runtime.json("inspect", bundle)["cost"]
    runtime.output("report", bundle, "-o", tmp_path / "page.html")
    assert runtime.json("doctor")["sound"]
    assert "requires the full package" in runtime.refusal("train")
    assert (tmp_path / "venv" / "bin" / "recprune-export").is_file()


def test_both_in_one_environment(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Equal releases work; files of two are one sentence."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip("install", "--constraint", ROOT / "constraints.txt", "click", "lazy-loader", python=python)
    for wheel in wheels.values():
        pip("install", "--no-deps", wheel, python=python)
    both = Runtime(python)
    assert both.run("--version").stdout.endswith(f"{recprune_export.__version__}\n")
    (metadata,) = (tmp_path / "venv").rglob("recprune_export_runtime-*.dist-info")
    metadata.rename(metadata.with_name("recprune_export_runtime-0.1.9.dist-info"))
    assert "pip uninstall -y recprune-export recprune-export-runtime" in both.refusal("--version")
