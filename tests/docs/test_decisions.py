"""The records of decisions are all in their index, and name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")


def test_the_index_lists_each_record_once() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[[\w-]+\]\(([\w-]+\.md)\)", index, flags=re.MULTILINE)
    assert sorted(listed) == [path.name for path in RECORDS]


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_names_files_that_exist(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (record.parent / link).exists(), link
    for script in re.findall(r"`(benchmarks/\w+\.py)`", text):
        assert (ROOT / script).exists(), script
