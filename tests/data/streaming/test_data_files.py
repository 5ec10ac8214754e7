"""The files of rows that a path names: one file, a folder, a glob."""

from pathlib import Path

import polars as pl
import pytest

from recprune_export.data.streaming.data_files import as_data_source, find_data_files, is_parquet, is_url
from recprune_export.errors import DataError

ROWS = pl.DataFrame({"user": ["a", "b"], "y": [0, 1]})


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".parquet", ".pq"):
            ROWS.write_parquet(path)
        else:
            path.write_text("user,y\na,0\nb,1\n")


def names(folder: Path, source: Path | str) -> list[str]:
    return [Path(file).relative_to(folder).as_posix() for file in find_data_files(source)]


def test_a_folder_stands_for_its_files_in_natural_order(tmp_path: Path) -> None:
    write(
        tmp_path, "part-10.parquet", "part-2.parquet", "day=2/part-0.pq", "day=10/part-0.pq", "_SUCCESS", "notes.md",
        "_temporary/part-0.parquet", ".part-2.parquet.crc", ".hidden.parquet",
    )  # fmt: skip
    assert names(tmp_path, tmp_path) == ["day=2/part-0.pq", "day=10/part-0.pq", "part-2.parquet", "part-10.parquet"]
    assert names(tmp_path, str(tmp_path / "part-*.parquet")) == ["part-2.parquet", "part-10.parquet"]
    assert names(tmp_path, tmp_path / "day=*") == ["day=2/part-0.pq", "day=10/part-0.pq"]
    assert names(tmp_path, tmp_path / "**" / "*.pq") == ["day=2/part-0.pq", "day=10/part-0.pq"]
    assert len(names(tmp_path, tmp_path / "**")) == 4


def test_files_without_a_suffix_are_told_by_their_content(tmp_path: Path) -> None:
    write(tmp_path, "part-00001", "part-00000")
    (tmp_path / "blob").write_bytes(b"\0\1\2\3")
    assert names(tmp_path, tmp_path) == ["part-00000", "part-00001"]


def test_a_file_is_itself_also_where_its_name_is_like_a_glob(tmp_path: Path) -> None:
    write(tmp_path, "rows[1].csv", "rows1.csv")
    assert names(tmp_path, tmp_path / "rows[1].csv") == ["rows[1].csv"]
    assert find_data_files(tmp_path / "missing.csv") == (tmp_path / "missing.csv",)  # whoever opens it raises the error


@pytest.mark.parametrize("source", ["empty", "other", "*.feather"])
def test_a_folder_or_glob_without_rows_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"has no rows: .*give CSV or Parquet files"):
        find_data_files(tmp_path / source)


def test_both_kinds_are_refused_with_an_example_of_each(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "b.parquet")
    with pytest.raises(DataError, match=r"both kinds, such as .*b\.parquet \(Parquet\) and .*a\.csv \(CSV\)"):
        find_data_files(tmp_path)


def test_addresses_stay_strings(tmp_path: Path) -> None:
    assert is_url("s3://bucket/rows")
    assert not is_url(str(tmp_path))
    assert as_data_source("s3://bucket//rows") == "s3://bucket//rows"
    assert as_data_source(f"file://{tmp_path}/a.csv") == tmp_path / "a.csv"
    assert find_data_files("https://host/rows.parquet?token=1") == ("https://host/rows.parquet?token=1",)
    assert is_parquet("https://host/rows.parquet?token=1")
    assert not is_parquet("s3://bucket/rows.csv.gz")
