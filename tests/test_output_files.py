"""Outputs are checked before the work, and optional ones change no result."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export.cli import main
from recprune_export.errors import UsageError
from recprune_export.output_files import check_free_space, check_output_file, optional_output
from tests.bundle.samples import write

NOWHERE = Path("/proc/nothing")  # not even root may write there
Usage = namedtuple("Usage", "total used free")


def test_a_file_that_can_be_written_is_accepted_and_nothing_is_left(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "deeper" / "scores.csv")
    (tmp_path / "old.csv").write_text("old")
    check_output_file(tmp_path / "old.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"


def test_targets_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path, "a directory"),
        (tmp_path / "file" / "scores.csv", "file is a file, not a folder"),
        (NOWHERE / "scores.csv", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (Path("/dev/null"), "a device"),
    ):
        with pytest.raises(UsageError, match=words):
            check_output_file(path)
    check_output_file(Path("/dev/null"), replaced=False)


def test_a_disk_that_takes_names_but_no_content_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(UsageError, match="No space left"):
        check_output_file(tmp_path / "scores.csv")
    assert not list(tmp_path.iterdir())


def test_space_on_one_disk_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 5_000_000))
    check_free_space({tmp_path / "a": 2_000_000, tmp_path / "b": 2_000_000}, "the run")
    with pytest.raises(UsageError, match=r"5\.0 MB of free space, but the run takes at least 6\.0 MB"):
        check_free_space({tmp_path / "a": 3_000_000, tmp_path / "b" / "c": 3_000_000}, "the run")


def test_an_optional_output_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with optional_output("The summary"):
        (NOWHERE / "summary.md").write_text("")
    assert capsys.readouterr().err == "Warning: The summary was not written: No such file or directory.\n"


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--rows", "1", "-o", "NOWHERE/rows.csv"],
        ["train", "--data", "BUNDLE/README.md", "--label", "x", "-o", "NOWHERE/model.pt"],
        ["predict", "BUNDLE", "--data", "BUNDLE/README.md", "-o", "NOWHERE/scores.csv"],
        ["report", "BUNDLE", "-o", "NOWHERE/page.html"],
        ["pack", "BUNDLE", "-o", "NOWHERE/b.tar.zst"],
        ["compress", "BUNDLE/README.md", "-o", "NOWHERE/b"],
        ["sweep", "BUNDLE/README.md", "--data", "BUNDLE/README.md", "-o", "NOWHERE/sweep"],
        ["refresh", "BUNDLE", "--data", "BUNDLE/README.md", "-o", "NOWHERE/b"],
        ["check", "BUNDLE", "--against", "BUNDLE", "--junit", "NOWHERE/check.xml"],
        ["check", "BUNDLE", "--against", "BUNDLE", "--markdown", "NOWHERE/check.md"],
        ["check", "BUNDLE", "--against", "BUNDLE", "--report", "NOWHERE/check.html"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_every_command_with_an_output_says_before_the_work_that_it_cannot_be_written(
    words: list[str], tmp_path: Path
) -> None:
    bundle = write(tmp_path / "bundle")
    (bundle / "README.md").write_text(
        "no model, no rows, and no list of this file: anything but the output fails later"
    )
    names = {"NOWHERE": str(NOWHERE), "BUNDLE": str(bundle)}
    done = CliRunner().invoke(main, [_replace(word, names) for word in words])
    assert done.exit_code == 2, done.output
    assert "cannot be" in done.stderr or "No bundle can be written" in done.stderr
    assert str(NOWHERE) in done.stderr


def _replace(word: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        word = word.replace(name, value)
    return word
