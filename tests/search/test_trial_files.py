from pathlib import Path

import pytest

from recprune_export.errors import UsageError
from recprune_export.search import make_folder
from recprune_export.search.trial_files import write_json


def test_what_was_there_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new" / "trials.json"
    write_json(file, [1])
    write_json(file, [2])
    assert file.read_text().split() == ["[", "2", "]"]
    assert list(file.parent.iterdir()) == [file]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be created: Not a directory"):
        make_folder(tmp_path / "file" / "folder")
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(UsageError, match=r"taken.json cannot be written"):
        write_json(tmp_path / "taken.json", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.json"]
