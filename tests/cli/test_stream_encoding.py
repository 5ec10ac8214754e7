"""Every character can be printed in every encoding, by every way that the commands print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.cli import main
from recprune_export.cli.main_group import MainJobGroup
from recprune_export.cli.stream_encoding import spell_in_ascii
from recprune_export.cli.tables import make_console, make_table, print_json, print_notes
from recprune_export.progress import print_status
from tests.bundle.samples import write


def invoke(text: str, charset: str) -> Result:
    """Print `text` in each of the ways of `cli/`."""
    group = MainJobGroup("group")

    @group.command("compress")
    def command() -> None:
        print_json({"text": text})
        table = make_table(text, text)
        table.add_row(text)
        make_console().print(table)
        make_console().print(text)
        click.echo(text)
        print_notes((text,))
        print_status(text)

    return CliRunner(charset=charset).invoke(group, ["compress"])


@settings(max_examples=40)
@given(st.text(max_size=20), st.sampled_from(["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"]))
def test_any_text_is_printed(text: str, charset: str) -> None:
    done = invoke(text, charset)
    assert done.exit_code == 0, done.exception
    assert json.JSONDecoder().raw_decode(done.stdout)[0] == {"text": text}


def test_ascii_has_the_usual_spellings() -> None:
    done = invoke("1.50× [1.4, 1.6] → größe – 0.2 µs", "ascii")
    assert done.stdout.isascii()
    assert done.stdout.count("1.50x [1.4, 1.6] -> grosse - 0.2 us") == 5
    assert "Note: 1.50x" in done.stderr


def test_letters_of_a_path_that_no_encoding_has_are_printed() -> None:
    assert invoke(os.fsdecode(b"a\xff.csv"), "utf-8").exit_code == 0


@given(st.text())
def test_spelling_is_ascii(text: str) -> None:
    assert spell_in_ascii(text).isascii()


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "BUNDLE"],
        ["report", "BUNDLE"],
        ["doctor", "--no-run", "-o", "größe"],
        ["--help"],
    ],
    ids=lambda c: c[0],
)
def test_commands_print_ascii_alone(command: list[str], tmp_path: Path) -> None:
    bundle = write(tmp_path / "größe")
    words = [str(bundle) if word == "BUNDLE" else word for word in command]
    done = CliRunner(charset="ascii").invoke(main, words)
    assert done.exit_code == 0, done.exception
    assert done.stdout_bytes.isascii()
    assert done.stderr_bytes.isascii()


def test_a_process_with_an_ascii_terminal_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "recprune_export", "verify", str(tmp_path / "größe×")]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 3
    assert b"grossex" in done.stderr
