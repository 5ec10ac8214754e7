"""`find_data_files`: the files of rows that a path names: a file, a folder, a glob, or an address of an object store."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from recprune_export.column_names import list_names
from recprune_export.error_text import first_line
from recprune_export.errors import DataError

DataFile = Path | str  # a local file, or the URL of a remote one: a Path would drop a slash of "s3://"
HIDDEN_PREFIXES = (".", "_")  # files and folders that writers of tables add to the rows, such as _SUCCESS
_PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
_CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".psv", ".tab")
_COMPRESSION_SUFFIXES = (".gz", ".zst")
_PARQUET_MAGIC = b"PAR1"
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_EXPECTED = "give CSV or Parquet files"


def is_url(source: Path | str) -> bool:
    """Return whether `source` is an address such as s3://bucket/rows, not a path of this machine.

    >>> is_url("s3://bucket/rows/*.parquet"), is_url("rows.csv"), is_url(Path("s3:/bucket"))
    (True, False, False)
    """
    return isinstance(source, str) and _URL.match(source) is not None and not source.startswith("file://")


def as_data_source(source: Path | str) -> DataFile:
    """Return the address of an object store unchanged, and other values as a path.

    >>> as_data_source("gs://bucket/a.parquet"), as_data_source("file:///rows/a.csv").as_posix()
    ('gs://bucket/a.parquet', '/rows/a.csv')
    """
    if isinstance(source, Path) or is_url(source):
        return source
    return Path(source.removeprefix("file://"))


def find_data_files(source: Path | str) -> tuple[DataFile, ...]:
    """Return the files that `source` names, in a natural order (part-2 before part-10), all CSV or all Parquet.

    A file is returned whatever its content. A folder means the CSV and Parquet files below it, a glob the files that it matches; files
    and folders whose names begin with "." or "_" are left out. Addresses of object stores (s3://, gs://, az://, hf://) may be files,
    folders or globs too, those of http(s):// are files; they are strings.

    Raises `DataError` if there is no such file, or if both kinds occur.
    """
    source = as_data_source(source)
    if isinstance(source, str):
        files: Sequence[DataFile] = _find_remote(source)
    elif source.is_dir():
        files = _files_below(source)
    elif not source.exists() and glob.has_magic(str(source)):
        files = _matches(source)
    else:
        return (source,)
    if not files:
        raise DataError(f"{source} has no rows: {_describe_contents(source)}; {_EXPECTED}.")
    ordered = tuple(sorted(files, key=_natural_order))
    _refuse_both_kinds(source, ordered)
    return ordered


def is_parquet(file: DataFile) -> bool:
    """Return whether a file begins as Parquet does; of a remote file, its name or polars determines this.

    Raises `OSError` if a local file cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(4) == _PARQUET_MAGIC
    kind = _kind_by_name(PurePosixPath(file.partition("?")[0]).name)
    return _is_remote_parquet(file) if kind is None else kind == "Parquet"


def _find_remote(source: str) -> list[DataFile]:
    if source.startswith(("http://", "https://")):
        return [source]
    from polars.io._expand_paths import _expand_paths

    try:
        paths = _expand_paths(source, hidden_file_prefix=HIDDEN_PREFIXES).collect().to_series().to_list()
    except Exception as error:  # polars raises many classes of its object stores
        raise DataError(f"{source} cannot be read: {first_line(error)}") from error
    if paths == [source]:
        return [source]
    below = source.split("*", 1)[0].rpartition("/")[0]
    return [path for path in paths if not _is_hidden(path.removeprefix(below)) and _kind_by_name(_name(path)) != ""]


def _files_below(folder: Path) -> list[DataFile]:
    files: list[DataFile] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN_PREFIXES)]
        files += [Path(parent, name) for name in names if _holds_rows(Path(parent, name))]
    return files


def _matches(pattern: Path) -> list[DataFile]:
    files: list[DataFile] = []
    fixed = next(number for number, part in enumerate(pattern.parts) if glob.has_magic(part))
    for match in map(Path, glob.glob(str(pattern), recursive=True)):
        if any(part.startswith(HIDDEN_PREFIXES) for part in match.parts[fixed:]):
            continue
        if match.is_dir():
            if pattern.name != "**":  # this also matches the files of the folder
                files += _files_below(match)
        elif _holds_rows(match):
            files.append(match)
    return list(dict.fromkeys(files))


def _holds_rows(file: Path) -> bool:
    """Return whether a file of a folder has rows, by its name; one without a suffix, by its content."""
    if file.name.startswith(HIDDEN_PREFIXES):
        return False
    kind = _kind_by_name(file.name)
    if kind is not None:
        return kind != ""
    try:
        with file.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise DataError(f"The data file {file} cannot be read: {error.strerror}.") from error
    return bool(head) and (head.startswith(_PARQUET_MAGIC) or b"\0" not in head)


def _kind_by_name(name: str) -> str | None:
    """Return "Parquet", "CSV", "" for a file of another kind, or None for a name without a suffix.

    >>> [_kind_by_name(name) for name in ("a.csv.gz", "b.pq", "notes.md", "part-00000", "part-0.snappy.parquet")]
    ['CSV', 'Parquet', '', None, 'Parquet']
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSION_SUFFIXES:
        suffixes.pop()
        if not suffixes:
            return "CSV"  # text, as Spark compresses it
    if not suffixes:
        return None
    if suffixes[-1] in _PARQUET_SUFFIXES:
        return "Parquet"
    return "CSV" if suffixes[-1] in _CSV_SUFFIXES else ""


def _is_remote_parquet(url: str) -> bool:
    import polars as pl

    try:
        pl.scan_parquet(url).collect_schema()
    except (pl.exceptions.PolarsError, OSError):
        return False
    return True


def _refuse_both_kinds(source: DataFile, files: Sequence[DataFile]) -> None:
    first: dict[bool, DataFile] = {}
    for file in files:
        first.setdefault(is_parquet(file), file)
    if len(first) == 2:
        raise DataError(
            f"{source} contains files of both kinds, such as {first[True]} (Parquet) and {first[False]} (CSV): select one kind "
            f"by a glob, such as '{_join(source, '*.parquet')}'."
        )


def _describe_contents(source: DataFile) -> str:
    if not isinstance(source, Path) or not source.is_dir():
        return "no file of that name"
    names = sorted(path.name for path in source.iterdir())
    return f"the folder contains {list_names(names, 5)}" if names else "the folder is empty"


def _join(source: DataFile, name: str) -> str:
    text = str(source)
    return f"{text.rstrip('/')}/{name}" if not glob.has_magic(text) else f"{text.rpartition('/')[0]}/{name}".lstrip("/")


def _is_hidden(path: str) -> bool:
    return any(part.startswith(HIDDEN_PREFIXES) for part in path.split("/"))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _natural_order(file: DataFile) -> list[tuple[int, int, str]]:
    """Return a key by which part-2 comes before part-10.

    >>> sorted([Path("a/10.csv"), Path("a/9.csv"), Path("a/x.csv")], key=_natural_order)[0].name
    '9.csv'
    """
    return [
        (0, int(text), text) if text.isdigit() else (1, 0, text)
        for text in re.split(r"(\d+)", file.as_posix() if isinstance(file, Path) else file)
        if text
    ]
