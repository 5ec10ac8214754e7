"""Lazy reading of CSV and Parquet files, distinguished by their content: one file, or all files of a folder or glob."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.data.csv_format import (
    CsvOptions,
    FileState,
    csv_source,
    detect_csv_format,
    file_state,
    is_text_file,
    read_csv_header,
)
from recprune_export.data.csv_types import TextCounts, cast_text, infer_csv_types
from recprune_export.data.other_formats import describe_other_format
from recprune_export.data.streaming.data_files import DataFile, find_data_files, is_url
from recprune_export.data.streaming.data_files import is_parquet as is_parquet_file
from recprune_export.data.streaming.same_columns import check_same_columns, hive_values
from recprune_export.error_text import first_line
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

AS_WRITTEN = CsvOptions()


def scan(
    path: DataFile,
    options: CsvOptions = AS_WRITTEN,
    *,
    text: Collection[str] = (),
    columns: Collection[str] | None = None,
    missing: Collection[str] = (),
) -> "pl.LazyFrame":
    """Return the rows of `path`, a file, folder, glob or address of an object store, as a lazy frame.

    Several files are read one after the other, in the order of `find_data_files`; folders named key=value are columns. The types of the
    columns of CSV files follow from all rows, which are read once for this; columns in `text` are unchanged strings. With `columns`, only
    those that exist in `path` are read. A CSV value in `missing` is null, like the usual words for a missing value in a column of
    numbers.

    Raises `DataError` if a file is missing, empty, damaged, or neither CSV nor Parquet, if two columns that are read have the same name,
    or if files have different columns.
    """
    import polars as pl

    files = find_data_files(path)
    frame, names = _open(path, files, options)
    names = tuple(name for name in names if columns is None or name in columns)
    if is_parquet_file(files[0]):
        return frame if columns is None else frame.select(names)
    _refuse_repeated(files[0], options, names)
    typed = tuple(name for name in names if name not in text)
    with raise_data_errors(path):
        types = _infer_types(path, files, frame, options, typed, tuple(missing))
    return frame.select(cast_text(name, types[name].dtype if name in types else pl.String(), missing) for name in names)


def count_texts(
    path: DataFile, options: CsvOptions, columns: Collection[str], missing: Collection[str]
) -> Mapping[str, TextCounts]:
    """Return the counts of numbers, words for missing values and other strings in columns of strings; CSV has no others."""
    files = find_data_files(path)
    with raise_data_errors(path):
        frame, _ = _open(path, files, options)
        return _infer_types(path, files, frame, options, tuple(columns), tuple(missing))


def describe_encoding(path: DataFile, options: CsvOptions) -> tuple[str, ...]:
    """Return a note for each CSV file whose encoding is a guess."""
    files = find_data_files(path)
    if is_parquet_file(files[0]):
        return ()
    forms = {file: detect_csv_format(file, options) for file in files}
    return tuple(
        f"{Path(file).name} is not UTF-8 and is read as {form.encoding}; give another encoding with --encoding."
        for file, form in forms.items()
        if form.is_guess
    )


def read_column_names(path: DataFile, options: CsvOptions = AS_WRITTEN) -> tuple[str, ...]:
    """Return the names of the columns of `path`; only the heads of files are read. Raises `DataError` as `scan` does."""
    return _open(path, find_data_files(path), options)[1]


def is_parquet(path: DataFile) -> bool:
    """Return whether the file `path`, or the files that it refers to, are Parquet. Raises `DataError` if there are none."""
    return is_parquet_file(find_data_files(path)[0])


@contextmanager
def raise_data_errors(path: DataFile) -> Iterator[None]:
    """Raise `DataError` if a query inside the block fails to read rows."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"The rows of {path} cannot be read: {_describe(error)}") from error


def collect(frame: "pl.LazyFrame", path: DataFile) -> "pl.DataFrame":
    """Run a query with the streaming engine. Raises `DataError` if the rows cannot be read."""
    with raise_data_errors(path):
        return frame.collect(engine="streaming")


def count_frame_rows(frame: "pl.LazyFrame", path: DataFile) -> int:
    """Return the number of rows of a query. Raises `DataError` if the rows cannot be read."""
    import polars as pl

    return int(collect(frame.select(pl.len()), path).item())


def _open(path: DataFile, files: Sequence[DataFile], options: CsvOptions) -> tuple["pl.LazyFrame", tuple[str, ...]]:
    """Return the rows of the `files` that `path` names, those of CSV as strings, and the names of the columns.

    If several columns have the same name, the first one is used.
    """
    import polars as pl

    if len(files) == 1 and not hive_values(path, files[0]):
        return _open_file(files[0], options)
    are_parquet = is_parquet_file(files[0])
    opened = [_open_file(file, options) for file in (files[:1] if are_parquet else files)]
    check_same_columns(path, files, [names for _, names in opened])
    if are_parquet:
        keys = hive_values(path, files[0])
        names = (*opened[0][1], *keys)
        frame = pl.scan_parquet([str(file) for file in files], hive_partitioning=bool(keys), glob=False)
        return frame.select(names), names
    values = [hive_values(path, file) for file in files]
    frames = [
        frame.select(*opened[0][1], *(pl.lit(value).alias(key) for key, value in of_file.items()))
        for (frame, _), of_file in zip(opened, values, strict=True)
    ]
    return pl.concat(frames), (*opened[0][1], *values[0])


def _open_file(path: DataFile, options: CsvOptions) -> tuple["pl.LazyFrame", tuple[str, ...]]:
    import polars as pl

    is_csv = not is_parquet_file(path) if is_url(path) else not _check_head(Path(path), options)
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
        raise DataError(f"{path} is damaged or not a table: {_describe(error)}") from error
    if len(names) < 2 and is_csv:  # with another separator it may have more
        raise DataError(
            f"{path} has {len(names)} column, '{''.join(names)[:60]}', by its first line; a label and at least one field are required "
            f"(is the separator '{separator}'? Give another one with --separator)."
        )
    return _name_as_written(frame, names, read_csv_header(path, form)) if is_csv else (frame, names)


def _check_head(path: Path, options: CsvOptions) -> bool:
    """Return whether a file is Parquet. Raises `DataError` if it is missing, empty, or neither CSV nor Parquet."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}.") from error
    if not head:
        raise DataError(f"The data file {path} is empty.")
    if head.startswith(b"PK") and path.suffix == ".npz":
        raise DataError(f"{path} holds arrays, which have no rows by column here: give CSV or Parquet.")
    if other := describe_other_format(head):
        raise DataError(f"{path} is {other}.")
    if is_parquet_file(path):
        return True
    if options.encoding is None and not is_text_file(head):
        raise DataError(f"{path} is neither CSV nor Parquet (it begins with {head[:4]!r}).")
    return False


def _name_as_written(
    frame: "pl.LazyFrame", names: tuple[str, ...], header: tuple[str, ...]
) -> tuple["pl.LazyFrame", tuple[str, ...]]:
    """Restore the column names of the file: polars doubles quotes and changes repeated names."""
    import polars as pl

    if len(header) != len(names):
        return frame, names
    first = dict(zip(reversed(header), reversed(names), strict=True))
    written = tuple(dict.fromkeys(header))
    if written == names:
        return frame, names
    return frame.select(pl.col(first[name]).alias(name) for name in written), written


def _refuse_repeated(path: DataFile, options: CsvOptions, names: Collection[str]) -> None:
    header = read_csv_header(path, detect_csv_format(path, options))
    repeated = next((name for name in names if header.count(name) > 1), None)
    if repeated is not None:
        positions = [index + 1 for index, name in enumerate(header) if name == repeated]
        called = f"are called '{repeated}'" if repeated else "have no name"
        raise DataError(
            f"The columns {', '.join(map(str, positions[:-1]))} and {positions[-1]} of {path} {called}: rename all but one of them."
        )


def _infer_types(
    path: DataFile,
    files: Sequence[DataFile],
    frame: "pl.LazyFrame",
    options: CsvOptions,
    columns: tuple[str, ...],
    missing: tuple[str, ...],
) -> Mapping[str, TextCounts]:
    known = _inferred_types(path, options, missing, tuple(map(file_state, files)))
    new = [name for name in columns if name not in known]
    known.update(infer_csv_types(frame, new, missing))
    return {name: known[name] for name in columns}


@lru_cache(maxsize=16)
def _inferred_types(
    path: DataFile, options: CsvOptions, missing: tuple[str, ...], state: tuple[FileState, ...]
) -> dict[str, TextCounts]:
    """Return the types of the columns that were inferred so far, which callers extend."""
    return {}


def _describe(error: Exception) -> str:
    line = first_line(error)
    if "utf-8" in line:
        return f"{line}; give the encoding of the file with --encoding."
    if "more fields" in line:
        return f"{line}: a row has more fields than the first line (give the separator with --separator; quote fields that contain it)."
    return line
