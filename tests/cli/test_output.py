"""Every command can print JSON and be quiet; colours are for terminals."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from recprune_export.cli import main
from recprune_export.cli.main_group import MainJobGroup
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import make_console, make_table, print_json, prints_after_work
from recprune_export.errors import ValidationFailed
from tests.bundle.samples import write

ALONE = {"completion"}  # what it prints is for a shell


@pytest.mark.parametrize("name", sorted(set(main.commands) - ALONE))
def test_every_command_has_json_and_quiet(name: str) -> None:
    names = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert {"--json", "--quiet", "-q"} <= names


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("a place") / "größe")


COMMANDS = [
    ["verify", "BUNDLE"],
    ["inspect", "BUNDLE", "--latency-batch-sizes", "1"],
    ["report", "BUNDLE"],
    ["doctor", "--no-run"],
]


def words_of(command: list[str], bundle: Path) -> list[str]:
    return [str(bundle) if word == "BUNDLE" else word for word in command]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_json_is_all_that_is_printed(command: list[str], bundle: Path) -> None:
    done = CliRunner().invoke(main, [*words_of(command, bundle), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)
    assert not done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_quiet_prints_nothing_but_errors(command: list[str], bundle: Path) -> None:
    done = CliRunner().invoke(main, [*words_of(command, bundle), "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.output == "" or "ok" not in done.output.split()  # doctor prints findings that are not ok
    wrong = CliRunner().invoke(main, [command[0], "nowhere", "--quiet"])
    assert wrong.exit_code in (2, 3)
    assert wrong.stderr
    assert not wrong.stdout


@pytest.mark.parametrize("words", [["verify", "nowhere"], ["veryfy"], ["check", "--no-such-option"], ["nowhere.pt"]])
def test_an_error_under_json_is_json_on_stdout_and_a_sentence_on_stderr(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--json"])
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == done.exit_code != 0
    assert error["message"] in done.stderr
    assert error["type"]


def test_a_verdict_that_fails_is_one_json_document() -> None:
    @click.group(cls=MainJobGroup)
    def judges() -> None:
        """Commands with a verdict."""

    @judges.command()
    @screen_options()
    def judge(as_json: bool) -> None:
        print_json({"verdict": "fails"})
        raise ValidationFailed("It fails.")

    done = CliRunner().invoke(judges, ["judge", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"verdict": "fails"}
    assert done.stderr == "Error: It fails.\n"


def test_quiet_ends_with_the_command_also_where_its_arguments_are_wrong(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["verify", "nowhere", "--quiet", "--json"]).exit_code == 3
    done = CliRunner().invoke(main, ["generate", "--rows", "9", "-o", str(tmp_path / "rows.csv")])
    assert "9 generated rows" in done.stdout


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"auc": float("nan"), "interval": (float("-inf"), 0.5), "path": Path("a/b")})
    assert json.loads(capsys.readouterr().out) == {"auc": None, "interval": [None, 0.5], "path": "a/b"}


def test_an_interruption_under_json_is_an_error() -> None:
    @click.group(cls=MainJobGroup)
    def works() -> None:
        """A command that is interrupted."""

    @works.command()
    @screen_options()
    def work(as_json: bool) -> None:
        raise KeyboardInterrupt

    done = CliRunner().invoke(works, ["work", "--json"])
    assert done.exit_code == 130
    assert json.loads(done.stdout)["error"]["exit_code"] == 130


def test_generate_says_what_it_wrote_in_three_ways(tmp_path: Path) -> None:
    words = ["generate", "--rows", "50", "-o", str(tmp_path / "rows.csv")]
    assert CliRunner().invoke(main, [*words, "--quiet"]).output == ""
    assert json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["rows"] == 50
    assert "50 generated rows" in CliRunner().invoke(main, words).stdout


def run(words: list[str], **environment: str) -> tuple[str, str]:
    """What a command prints into a pipe, and on a terminal."""
    command = [sys.executable, "-m", "recprune_export", *words]
    wanted = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    wanted |= {"TERM": "xterm-256color", **environment}
    piped = subprocess.run(command, capture_output=True, text=True, env=wanted, check=True)
    outside, inside = pty.openpty()
    process = subprocess.Popen(command, stdout=inside, stderr=inside, stdin=subprocess.DEVNULL, env=wanted)
    os.close(inside)
    shown = b""
    while True:
        try:
            part = os.read(outside, 65536)
        except OSError:  # so a terminal ends on Linux
            break
        if not part:
            break
        shown += part
    process.wait()
    os.close(outside)
    return piped.stdout + piped.stderr, shown.decode()


@pytest.mark.parametrize(
    "command", [["inspect", "BUNDLE", "--latency-batch-sizes", "1"], ["doctor", "--no-run"]], ids=lambda c: c[0]
)
def test_colours_are_for_terminals(command: list[str], bundle: Path) -> None:
    piped, shown = run(words_of(command, bundle))
    assert "\x1b" not in piped
    assert "\x1b[" in shown


def test_a_terminal_that_wants_no_colour_gets_none(bundle: Path) -> None:
    _, shown = run(["inspect", str(bundle), "--latency-batch-sizes", "1"], NO_COLOR="1")
    assert not [code for code in ("\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[1;36m") if code in shown]


def test_the_groups_help_names_every_command() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert all(f"  {name}" in text for name in main.list_commands(click.Context(main)))


@pytest.mark.parametrize("name", ["[/red]", "[bold]x[/bold]", ":smile:", "a  b"])
def test_names_are_printed_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(name, name)
    table.add_row(name)
    make_console().print(table)
    make_console().print(name)
    assert capsys.readouterr().out.count(name) == 4


class Broken(io.StringIO):
    """A stdout of which the other end is closed, or the disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "warned"), [(BrokenPipeError(32, "Broken pipe"), False), (OSError(28, "No space left on device"), True)]
)
@pytest.mark.parametrize("printer", [lambda: make_console().print("x"), lambda: click.echo("x")], ids=["rich", "click"])
def test_finished_work_stands_where_it_cannot_be_printed(
    error: OSError,
    warned: bool,
    printer: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    prints_after_work(printer)()
    assert ("Warning: The result cannot be printed" in capsys.readouterr().err) == warned


def test_a_log_on_a_full_disk_changes_no_exit_code(bundle: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full to try it on")
    words = [sys.executable, "-m", "recprune_export", "verify", str(bundle)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be printed (No space left on device)" in done.stderr
