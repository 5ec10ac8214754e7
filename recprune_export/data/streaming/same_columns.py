"""Files of one table: their columns are the same, and folders named key=value give each row the value of a column."""

import glob
import re
from collections.abc import Collection, Sequence
from urllib.parse import unquote

from recprune_export.data.streaming.data_files import DataFile, is_parquet
from recprune_export.error_text import first_line
from recprune_export.errors import DataError

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def hive_values(source: DataFile, file: DataFile) -> dict[str, str | None]:
    """Return the columns that the folders between `source` and `file` name, as Hive writes them.

    >>> from pathlib import Path
    >>> hive_values(Path("rows"), Path("rows/day=2026-01-31/shop=de/part-0.parquet"))
    {'day': '2026-01-31', 'shop': 'de'}
    >>> hive_values(Path("a=1/rows.csv"), Path("a=1/rows.csv"))
    {}
    """
    above, below = str(source), str(file)
    if glob.has_magic(above) and not below.startswith(above):
        above = re.split(r"[*?[]", above)[0].rpartition("/")[0]
    if above == below or not below.startswith(above):
        return {}
    folders = below[len(above) :].split("/")[:-1]
    pairs = [folder.partition("=") for folder in folders if "=" in folder and not folder.startswith("=")]
    return {key: None if value == _HIVE_NULL else unquote(value) for key, _, value in pairs}


def refuse_columns_of_folders(file: DataFile, names: Collection[str], keys: Collection[str]) -> None:
    """Raise `DataError` if a file has a column, among `names`, that its folders also define (`keys`), since the values may differ."""
    own = next((key for key in keys if key in names), None)
    if own is not None:
        raise DataError(
            f"{file} has a column '{own}', and lies in a folder '{own}=...' that gives all of its rows one value of it: rename the "
            "folder, or leave the column out of the file."
        )


def check_same_columns(source: DataFile, files: Sequence[DataFile], names: Sequence[Sequence[str]]) -> None:
    """Raise `DataError` if the columns of a file differ from those of the first one in name or type, or repeat one of its folders.

    `names` has the columns of each CSV file, whose types follow from all rows; Parquet files state theirs.
    """
    keys = [tuple(hive_values(source, file)) for file in files]
    for file, own in zip(files, keys, strict=True):
        if own != keys[0]:
            raise DataError(
                f"{file} is in folders with the partition keys {_quote(own)}, and {files[0]} in folders with {_quote(keys[0])}: give files "
                "with the same partitioning."
            )
    refuse_columns_of_folders(files[0], names[0], keys[0])
    if is_parquet(files[0]):
        return _check_parquet_types(files)
    for file, columns in zip(files, names, strict=True):
        _check_names(file, columns, files[0], names[0])
    return None


def _check_parquet_types(files: Sequence[DataFile]) -> None:
    import polars as pl

    first: dict[str, pl.DataType] | None = None
    for file in files:
        try:
            types = dict(pl.scan_parquet(str(file), hive_partitioning=False, glob=False).collect_schema())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{file} is damaged or not a table: {first_line(error)}") from error
        first = first or types
        _check_names(file, tuple(types), files[0], tuple(first))
        other = next((name for name, dtype in types.items() if dtype != first[name]), None)
        if other is not None:
            raise DataError(
                f"The column '{other}' contains {types[other]} in {file}, but {first[other]} in {files[0]}: use the same type in all files."
            )


def _check_names(file: DataFile, names: Sequence[str], first: DataFile, expected: Sequence[str]) -> None:
    lacking = next((name for name in expected if name not in names), None)
    if lacking is not None:
        raise DataError(f"{file} has no column '{lacking}', which {first} has: give files with the same columns.")
    other = next((name for name in names if name not in expected), None)
    if other is not None:
        raise DataError(
            f"{file} has a column '{other}', which {first} does not have: give files with the same columns."
        )


def _quote(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "no column"
