"""Rows are told from others by the content of all their files, whether these are named one by one, by a folder or by a glob."""

from pathlib import Path

from recprune_export.data.data_identity import identify_data
from recprune_export.provenance import file_identity


def test_files_folders_and_globs(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in (2, 10):
        (folder / f"part-{number}.csv").write_text(f"x\n{number}\n")
    single = folder / "part-2.csv"
    assert identify_data(single) == file_identity(single)
    assert identify_data(folder) == file_identity(folder)
    identity = identify_data(folder / "*.csv")
    assert identity is not None
    assert (identity["path"], identity["bytes"]) == (str(folder / "*.csv"), 9)
    single.write_text("x\n3\n")
    changed = identify_data(folder / "*.csv")
    assert changed is not None
    assert changed["bytes"] == identity["bytes"]
    assert changed["sha256"] != identity["sha256"]


def test_the_content_of_an_address_is_not_read() -> None:
    assert identify_data("s3://bucket/rows/*.parquet") is None
