"""Completion: the scripts are what a shell can read, and what they ask for is answered."""

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from recprune_export.cli import main

VARIABLE = "_RECPRUNE_EXPORT_COMPLETE"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_our_program_and_is_read_by_its_shell(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in done.output
    assert "recprune-export" in done.output
    if shutil.which(shell):
        read = subprocess.run([shell, "-n"], input=done.output, text=True, capture_output=True, check=False)
        assert read.returncode == 0, read.stderr


def test_another_shell_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["completion", "cmd"]).exit_code == 2


def offered(words: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What a bash is told; a line is a kind and a value."""
    for name, value in {VARIABLE: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, [], prog_name="recprune-export")
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return set(done.output.splitlines())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("recprune-export ver", {"plain,verify", "file,ver"}),
        ("recprune-export ./mod", {"file,./mod"}),
        ("recprune-export verify --lat", {"plain,--latency", "plain,--latency-batch-sizes"}),
        ("recprune-export model.pt --spars", {"plain,--sparsity", "plain,--sparsity-schedule"}),
        ("recprune-export --spars", {"plain,--sparsity", "plain,--sparsity-schedule"}),
        ("recprune-export compress model.pt --sparsity-schedule ", {"plain,gradual", "plain,one-shot"}),
        ("recprune-export completion f", {"plain,fish"}),
    ],
)
def test_words_are_completed(words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered(words, monkeypatch) == expected
