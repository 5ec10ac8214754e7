"""CSV files are read whatever their separator, encoding and compression, and their types follow from all rows."""

import bz2
import gzip
import pickle
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import MISSING_WORDS, CsvOptions, scan
from recprune_export.data.csv_types import infer_csv_types
from recprune_export.errors import DataError, UsageError

ROWS = pl.DataFrame({"name": ["café", 'a "b"; c|d', "x,y\tz"], "count": [1, 2, 3], "tags": ["u|v", "v", "w"]})
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def written(separator: str, encoding: str, compression: str = "") -> bytes:
    return COMPRESSIONS[compression](ROWS.write_csv(separator=separator).encode(encoding))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_file_of_any_form_gives_the_same_rows(
    tmp_path: Path, separator: str, encoding: str, compression: str
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(written(separator, encoding, compression))
    assert scan(path).collect().equals(ROWS)
    assert scan(path, CsvOptions(separator, encoding)).collect().equals(ROWS)


def test_a_late_letter_of_another_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"name,count\n" + b"plain,1\n" * 100_000 + "café,2\n".encode("cp1252"))
    assert scan(path).select(pl.col("name").last()).collect().item() == "café"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"user,click\nu1,1\n", CsvOptions(";"), "1 column.*separator ';'"),
        ("name,click\ncafé,1\n".encode("latin-1"), CsvOptions(encoding="utf-16"), "not in utf-16"),
        (b"a,b\n1,2,3\n", CsvOptions(), "more fields than the first line"),
        (bz2.compress(b"a,b\n1,2\n"), CsvOptions(), "is bz2"),
        (b"PK\x03\x04" + bytes(40), CsvOptions(), "spreadsheet"),
        (gzip.compress(b"a,b\n1,2\n" * 5000, mtime=0)[:-60], CsvOptions(), "cannot be"),
        (zstandard.compress(b"a,b\n1,2\n" * 5000)[:20], CsvOptions(), "cannot be|is damaged|is empty"),
    ],
    ids=["separator", "encoding", "too many fields", "bz2", "spreadsheet", "cut gzip", "cut zstandard"],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes, options: CsvOptions, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan(path, options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROWS.write_ndjson().encode(), "is JSON lines: .*read_ndjson"),
        (gzip.compress(ROWS.write_ndjson().encode()), "is JSON lines"),
        (ROWS.write_json().encode(), "is JSON: .*read_json"),
        (b'[\n  {\n    "user": 1\n  }\n]\n', "is JSON: "),
        (b"ARROW1\0\0" + bytes(40), "Feather.*read_ipc"),
        (b"\xff\xff\xff\xff" + bytes(40), "Arrow stream.*read_ipc_stream"),
        (pickle.dumps({"user": [1]}), "is a pickle.*read_pickle"),
        (b"Obj\x01" + bytes(40), "is Avro.*read_avro"),
        (b"# made by a program\nuser,click\nu1,1\n", "1 column, '# made by a program', by its first line"),
    ],
    ids=["lines", "packed lines", "json", "indented json", "feather", "stream", "pickle", "avro", "comment"],
)
def test_another_format_is_named_with_its_conversion(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan(path)


def test_arrays_are_no_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", user=np.arange(3))
    with pytest.raises(DataError, match=r"holds arrays.*give CSV or Parquet"):
        scan(tmp_path / "rows.npz")


def test_an_option_that_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="one ASCII character"):
        CsvOptions("::")
    with pytest.raises(UsageError, match="unknown"):
        CsvOptions(encoding="utf-99")
    assert CsvOptions("\\t").separator == "\t"


@settings(max_examples=25)
@given(
    st.sampled_from(["integers", "floats", "booleans"]),
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=8),
    st.lists(st.sampled_from([word for word in MISSING_WORDS if word]), max_size=4),
    st.randoms(use_true_random=False),
)
def test_words_for_missing_values_leave_a_column_of_numbers_as_it_is(
    kind: str, values: list[int], words: list[str], random: Random
) -> None:
    texts = {"integers": str, "floats": lambda v: f"{v / 8!r}", "booleans": lambda v: str(v > 0)}[kind]
    column = [*(texts(value) for value in values), *words]
    random.shuffle(column)
    (counts,) = infer_csv_types(pl.LazyFrame({"a": column}), ["a"], ()).values()
    expected = {"integers": pl.Int64, "floats": pl.Float64, "booleans": pl.Boolean}[kind]
    assert (counts.dtype, counts.words, counts.others) == (expected, len(words), 0)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["007", "12"], pl.String),
        (["12345678901234567890", "1"], pl.String),
        (["1", "2.5"], pl.Float64),
        ([" 1", "2 "], pl.Int64),
        (["1e5", "2"], pl.Float64),
        (["NA", None], pl.Null),
        (["0", "-0"], pl.Int64),
        (["1", "u7"], pl.String),
    ],
)
def test_the_type_of_a_column(values: list[str], dtype: type[pl.DataType]) -> None:
    (counts,) = infer_csv_types(pl.LazyFrame({"a": pl.Series(values, dtype=pl.String)}), ["a"], ()).values()
    assert counts.dtype == dtype


def test_a_text_after_the_first_rows_makes_a_column_text_and_is_located() -> None:
    column = [str(n % 40) for n in range(12_000)] + ["B07", "B08"]
    (counts,) = infer_csv_types(pl.LazyFrame({"a": column}), ["a"], ()).values()
    assert (counts.dtype, counts.numbers, counts.others, counts.other, counts.other_row) == (
        pl.String,
        12_000,
        2,
        "B07",
        12_000,
    )


@settings(max_examples=50)
@given(st.lists(st.text("ab\", ;'", min_size=1).filter(lambda name: name.strip() == name), min_size=2, unique=True))
def test_names_of_columns_are_as_written(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("names") / "rows.csv"
    pl.DataFrame({name: [str(n)] for n, name in enumerate(names)}).write_csv(path)
    assert scan(path, CsvOptions(",")).collect().to_dicts() == [dict(zip(names, range(len(names)), strict=True))]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user,item,item,user", "columns 1 and 4 of .* are called 'user'"),
        ("user,,click,", "columns 2 and 4 .* no name"),
    ],
)
def test_columns_of_one_name_are_refused_where_they_are_read(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n1,2,3,4\n")
    with pytest.raises(DataError, match=message):
        scan(path)
    assert scan(path, columns=["click"]).collect().columns in ([], ["click"])


def test_columns_without_values_have_the_rows_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for rows in (0, 1, 3):
        path.write_text("a,b\n" + ",\n" * rows)
        assert scan(path).collect().shape == (rows, 2)
        assert scan(path).collect(engine="streaming").shape == (rows, 2)
