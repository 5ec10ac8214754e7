import subprocess
import sys

import pytest
from click.testing import CliRunner

from recprune_export import __version__
from recprune_export.bundle import verify
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
    done = CliRunner().invoke(main, ["verify", "anything"])
    assert (done.exit_code, done.stderr.strip()) == (130, "Interrupted; nothing was left half-written.")


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recprune_export", "--help"], capture_output=True, text=True, check=True
    )
    assert "recprune-export MODEL" in done.stdout
