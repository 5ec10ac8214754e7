import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export import __version__
from recprune_export.bundle import _verify as verify
from recprune_export.cli import main


def test_help_names_every_command_and_exit_code() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    for word in ("compress", "train", "inspect", "verify", "generate", "report", "Exit codes", "4 the model"):
        assert word in text


def test_a_model_alone_means_the_main_job() -> None:
    assert CliRunner().invoke(main, ["nothing.pt"]).exit_code == 3
    assert CliRunner().invoke(main, ["compress", "nothing.pt"]).exit_code == 3


def test_options_may_stand_before_the_model() -> None:
    assert CliRunner().invoke(main, ["--sparsity", "0.5", "nothing.pt"]).exit_code == 3


def test_the_version_is_told() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_ctrl_c_is_said_and_has_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(bundle: object, public_key: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupted)
    done = CliRunner().invoke(main, ["verify", "."])
    assert (done.exit_code, done.stderr.strip().splitlines()[-1]) == (130, "Interrupted; no incomplete file was left.")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            "Out of memory",
        ),
        (PermissionError(13, "Permission denied", "model.pt"), "Permission denied (model.pt): change the permissions"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "set TMPDIR"),
        (OSError(28, "No space left on device"), "free some disk space"),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/1"), "free some disk space"),
    ],
)
def test_what_runs_out_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(verify, "verify", lacking)
    done = CliRunner().invoke(main, ["verify", "."])
    assert done.exit_code == 2
    assert words in done.stderr


def test_other_faults_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(verify, "verify", broken)
    assert isinstance(CliRunner().invoke(main, ["verify", "."]).exception, RuntimeError)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recprune_export", "--help"], capture_output=True, text=True, check=True
    )
    assert "recprune-export MODEL" in done.stdout


def test_an_interruption_before_the_first_command_is_one_sentence_too() -> None:
    script = """
import runpy, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "recprune_export.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
runpy.run_module("recprune_export", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted; no incomplete file was left.\n")


def test_help_on_a_full_disk_is_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full to try it on")
    words = [sys.executable, "-m", "recprune_export", "--help"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: Standard output cannot be written: No space left on device.\n")
