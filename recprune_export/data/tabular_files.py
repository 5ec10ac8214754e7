"""Lazy reading of CSV and Parquet files, distinguished by their content."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.data.csv_format import (
    CsvOptions,
    csv_source,
    detect_csv_format,
    file_state,
    is_text_file,
    name_archive,
    read_csv_header,
)
from recprune_export.data.csv_types import TextCounts, cast_text, infer_csv_types
from recprune_export.error_text import first_line
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_PARQUET = b"PAR1"
AS_WRITTEN = CsvOptions()


def scan(
    path: Path,
    options: CsvOptions = AS_WRITTEN,
    *,
    text: Collection[str] = (),
    columns: Collection[str] | None = None,
    missing: Collection[str] = (),
) -> "pl.LazyFrame":
    """Return the rows of `path` as a lazy frame.

    The types of the columns of a CSV file follow from all of its rows, which are read once for that; columns in `text` are
    texts as they are written. With `columns` no others are read, those that `path` lacks apart. A CSV value in `missing` is
    null, like the usual words for a missing value in a column of numbers.

    Raises `DataError` if the file is missing, empty, damaged, or neither CSV nor Parquet, or two columns that are read have
    one name.
    """
    import polars as pl

    frame, names = _open(path, options)
    names = tuple(name for name in names if columns is None or name in columns)
    if is_parquet(path):
        return frame if columns is None else frame.select(names)
    _refuse_repeated(path, options, names)
    typed = tuple(name for name in names if name not in text)
    with raise_data_errors(path):
        types = _infer_types(path, options, typed, tuple(missing))
    return frame.select(cast_text(name, types[name].dtype if name in types else pl.String(), missing) for name in names)


def count_texts(
    path: Path, options: CsvOptions, columns: Collection[str], missing: Collection[str]
) -> Mapping[str, TextCounts]:
    """Return the counts of numbers, words for missing values and other texts in columns of texts; CSV has no others."""
    with raise_data_errors(path):
        return _infer_types(path, options, tuple(columns), tuple(missing))


def describe_encoding(path: Path, options: CsvOptions) -> tuple[str, ...]:
    """Return a note if the encoding of a CSV file is a guess."""
    form = None if is_parquet(path) else detect_csv_format(path, options)
    if form is None or not form.is_guess:
        return ()
    return (f"{path.name} is not UTF-8 and is read as {form.encoding}; --encoding names another encoding.",)


def read_column_names(path: Path, options: CsvOptions = AS_WRITTEN) -> tuple[str, ...]:
    """Return the names of the columns of `path`; only its head is read. Raises `DataError` as `scan` does."""
    return _open(path, options)[1]


def is_parquet(path: Path) -> bool:
    """Return whether a file begins as Parquet does."""
    with path.open("rb") as file:
        return file.read(4) == _PARQUET


@contextmanager
def raise_data_errors(path: Path | str) -> Iterator[None]:
    """Raise `DataError` if a query inside the block fails to read rows."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"The rows of {path} cannot be read: {_describe(error)}") from error


def collect(frame: "pl.LazyFrame", path: Path | str) -> "pl.DataFrame":
    """Run a query with the streaming engine. Raises `DataError` if the rows cannot be read."""
    with raise_data_errors(path):
        return frame.collect(engine="streaming")


def _open(path: Path, options: CsvOptions) -> tuple["pl.LazyFrame", tuple[str, ...]]:
    """Return the rows, those of a CSV file as texts, and the names of the columns; of those of one name the first."""
    import polars as pl

    if path.is_dir():
        raise DataError(f"{path} is a directory; give a CSV or Parquet file.")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}.") from error
    if not head:
        raise DataError(f"The data file {path} is empty.")
    if archive := name_archive(head):
        raise DataError(f"{path} is {archive}: give CSV, plain or compressed with gz or zst, or Parquet.")
    is_csv = not head.startswith(_PARQUET)
    if is_csv and options.encoding is None and not is_text_file(head):
        raise DataError(f"{path} is neither CSV nor Parquet (it begins with {head[:4]!r}).")
    separator = ","
    if is_csv:
        form = detect_csv_format(path, options)
        separator = form.separator
        frame = pl.scan_csv(csv_source(path, form.encoding), infer_schema=False, separator=separator)
    else:
        frame = pl.scan_parquet(path)
    try:
        names = tuple(frame.collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is damaged or no table: {_describe(error)}") from error
    if len(names) < 2 and is_csv:  # with another separator it may have more
        raise DataError(
            f"{path} has {len(names)} column; rows need a label and at least one field "
            f"(is the separator '{separator}'? --separator names another)."
        )
    return _name_as_written(frame, names, read_csv_header(path, form)) if is_csv else (frame, names)


def _name_as_written(
    frame: "pl.LazyFrame", names: tuple[str, ...], header: tuple[str, ...]
) -> tuple["pl.LazyFrame", tuple[str, ...]]:
    """Give columns the names of the file, of which polars doubles quotes and changes repeated ones."""
    import polars as pl

    if len(header) != len(names):
        return frame, names
    first = dict(zip(reversed(header), reversed(names), strict=True))
    written = tuple(dict.fromkeys(header))
    if written == names:
        return frame, names
    return frame.select(pl.col(first[name]).alias(name) for name in written), written


def _refuse_repeated(path: Path, options: CsvOptions, names: Collection[str]) -> None:
    header = read_csv_header(path, detect_csv_format(path, options))
    repeated = next((name for name in names if header.count(name) > 1), None)
    if repeated is not None:
        positions = [index + 1 for index, name in enumerate(header) if name == repeated]
        called = f"are called '{repeated}'" if repeated else "have no name"
        raise DataError(
            f"The columns {', '.join(map(str, positions[:-1]))} and {positions[-1]} of {path} {called}: rename all but one of them."
        )


def _infer_types(
    path: Path, options: CsvOptions, columns: tuple[str, ...], missing: tuple[str, ...]
) -> Mapping[str, TextCounts]:
    known = _inferred_types(path, options, missing, file_state(path))
    new = [name for name in columns if name not in known]
    known.update(infer_csv_types(_open(path, options)[0], new, missing))
    return {name: known[name] for name in columns}


@lru_cache(maxsize=16)
def _inferred_types(
    path: Path, options: CsvOptions, missing: tuple[str, ...], state: tuple[int, int, int]
) -> dict[str, TextCounts]:
    """Return the types of the columns that were inferred so far, which callers extend."""
    return {}


def _describe(error: Exception) -> str:
    line = first_line(error)
    if "utf-8" in line:
        return f"{line}; --encoding names the encoding of the file."
    if "more fields" in line:
        return f"{line}: a row has more fields than the first line (--separator names the separator; quote fields that hold it)."
    return line
