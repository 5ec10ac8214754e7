"""`doctor` finds what is missing, says what to do, and its exit code is that of a check."""

import json
import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export import diagnostics, memory_limit
from recprune_export.cli import main
from recprune_export.diagnostics import MISSING, OK, WARNING, diagnose
from recprune_export.onnx import cache_directory


def states(target: Path) -> dict[str, str]:
    return {finding.check: finding.state for finding in diagnose(target, run=False).results}


def test_a_sound_environment_is_found_sound(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "-o", str(tmp_path / "not" / "there"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["ok"] is True
    found = {check["name"]: check for check in said["checks"]}
    assert {"python", "torch", "ONNX Runtime", "processor", "cores", "memory", "disk", "cache", "extra pack"} <= set(
        found
    )
    assert found["export and run"]["state"] == OK
    assert not list(tmp_path.iterdir())


def test_the_floors_are_those_of_the_project(pytestconfig: pytest.Config) -> None:
    import tomllib

    text = (pytestconfig.rootpath / "pyproject.toml").read_text()
    stated = tomllib.loads(text)["project"]["dependencies"]
    read = [diagnostics.parse_requirement(line) for line in stated]
    assert None not in read
    assert [f"{name}>={floor}" for name, floor, _ in filter(None, read)] == stated
    assert {*tomllib.loads(text)["project"]["optional-dependencies"], "predict"} == set(diagnostics.EXTRAS)


@pytest.mark.parametrize(
    ("found", "state"), [("2.9.1", MISSING), ("2.13", OK), ("2.13.0+cpu", OK), ("3.0.0", OK), (None, MISSING)]
)
def test_an_old_or_absent_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str | None, state: str
) -> None:
    honest = diagnostics.version

    def version(name: str) -> str:
        if name == "torch" and found is None:
            raise PackageNotFoundError
        return str(found) if name == "torch" else honest(name)

    monkeypatch.setattr(diagnostics, "version", version)
    monkeypatch.setattr(diagnostics, "requires", lambda name: ["torch>=2.13", 'zstandard>=999; extra == "pack"'])
    assert states(tmp_path)["torch"] == state
    assert states(tmp_path)["extra pack"] == WARNING
    done = CliRunner().invoke(main, ["doctor", "-o", str(tmp_path), "--no-run", "--quiet"])
    assert done.exit_code == (1 if state == MISSING else 0)
    assert ("pip install 'torch>=2.13'" in done.stdout) == (state == MISSING)
    assert "python" not in done.stdout  # which is as it should be


def test_no_onnx_runtime_and_no_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = {finding.check: finding for finding in diagnose(tmp_path).results}
    assert found["ONNX Runtime"].state == MISSING
    assert found["export and run"].state == MISSING


def test_a_container_with_less_than_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (diagnostics, memory_limit):
        monkeypatch.setattr(module, "CGROUP", tmp_path)
    monkeypatch.setattr(diagnostics, "count_cores", lambda: 8)
    assert diagnostics.check_cores().state == OK
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert diagnostics.read_cpu_quota() is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert diagnostics.read_cpu_quota() == 1.5
    assert diagnostics.check_cores().state == WARNING
    assert "--threads 1" in diagnostics.check_cores().advice
    for limit, state in ((300, MISSING), (1500, WARNING)):
        (tmp_path / "memory.max").write_text(str(limit << 20))
        (tmp_path / "memory.current").write_text("0")
        assert diagnostics.check_memory().state == state


def test_a_processor_without_wide_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_cpu_flags", lambda: frozenset({"sse2"}))
    assert diagnostics.check_cpu().state == WARNING


def test_a_full_disk_and_a_cache_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = diagnostics.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(diagnostics.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert diagnostics.check_disk("disk", tmp_path).state == MISSING
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert diagnostics.check_cache().state == WARNING


def test_the_cache_is_the_one_that_is_used() -> None:
    assert diagnostics.check_cache().description == str(cache_directory())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert diagnostics.check_disk("disk", tmp_path / "bundle").state == MISSING
