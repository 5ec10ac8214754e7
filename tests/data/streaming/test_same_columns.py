"""Several files are one table: the same columns, types of all rows, and columns of folders named key=value."""

from pathlib import Path

import polars as pl
import pytest

from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.tabular_files import count_texts, read_column_names, scan
from recprune_export.errors import DataError


def test_the_types_of_a_folder_of_csv_files_follow_from_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("shop;price;y\n7;1;0\n8;NA;1\n")
    (tmp_path / "2.csv").write_text("price;shop;y\n2.5;x;1\n")
    frame = scan(tmp_path)
    assert frame.collect_schema() == {"shop": pl.String(), "price": pl.Float64(), "y": pl.Int64()}
    assert frame.collect()["price"].to_list() == [1.0, None, 2.5]
    assert count_texts(tmp_path, CsvOptions(), ["shop"], ())["shop"].others == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_folders_named_by_key_and_value_are_columns(tmp_path: Path, kind: str) -> None:
    for day in (9, 10):
        folder = tmp_path / "above=1" / "rows" / f"day={day}"
        folder.mkdir(parents=True)
        frame = pl.DataFrame({"user": ["a", "b"], "y": [0, 1]})
        frame.write_csv(folder / "p.csv") if kind == "csv" else frame.write_parquet(folder / "p.parquet")
    source = tmp_path / "above=1" / "rows"
    assert read_column_names(source) == ("user", "y", "day")
    rows = scan(source).collect()
    assert rows["day"].to_list() == [9, 9, 10, 10]
    assert scan(source / "day=1*").collect()["day"].to_list() == [10, 10]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (pl.DataFrame({"user": ["a"]}), r"2\.parquet has no column 'y', which .*1\.parquet has"),
        (
            pl.DataFrame({"user": ["a"], "y": [1], "z": [2]}),
            r"2\.parquet has a column 'z', which .*1\.parquet does not have",
        ),
        (pl.DataFrame({"user": ["a"], "y": [1.0]}), r"'y' contains Float64 in .*2\.parquet, but Int64 in .*1\.parquet"),
    ],
)
def test_other_columns_and_types_are_named_with_their_file(tmp_path: Path, other: pl.DataFrame, message: str) -> None:
    pl.DataFrame({"user": ["a"], "y": [1]}).write_parquet(tmp_path / "1.parquet")
    other.write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=message):
        scan(tmp_path)


def test_a_csv_file_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b,y\n1,2,0\n")
    (tmp_path / "2.csv").write_text("a,y\n1,0\n")
    with pytest.raises(DataError, match=r"2\.csv has no column 'b'"):
        scan(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("days", [(1,), (1, 2)])
def test_a_column_that_a_folder_names_as_well_is_refused(tmp_path: Path, kind: str, days: tuple[int, ...]) -> None:
    for day in days:
        folder = tmp_path / f"day={day}"
        folder.mkdir()
        frame = pl.DataFrame({"user": ["a", "b"], "day": [7, 8]})
        frame.write_csv(folder / "p.csv") if kind == "csv" else frame.write_parquet(folder / "p.parquet")
    with pytest.raises(DataError, match=r"day=1/p\.\w+ has a column 'day', and lies in a folder 'day=\.\.\.'"):
        scan(tmp_path)
