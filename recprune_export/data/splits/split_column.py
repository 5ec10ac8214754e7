"""The column of a file that splits its rows: the column given with an option, else a column with the name and values of a split."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recprune_export.data.schema.schema import Split
from recprune_export.data.splits.row_split import split_by_words
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import collect
from recprune_export.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

SPLIT_COLUMNS = ("split", "fold", "subset")  # a column with one of these names is never a field by default
_REMEDY = "Correct these rows; if the column is not a split, --ignore {name} leaves it out and --categorical {name} makes it a field."


def find_split_columns(columns: Collection[str], roles: Collection[str]) -> list[str]:
    """Return the columns with the name of a split, except those with one of `roles`.

    >>> find_split_columns(["user", "Fold", "split"], ["split"])
    ['Fold']
    """
    return [name for name in columns if name.strip().lower() in SPLIT_COLUMNS and name not in roles]


@dataclass(frozen=True)
class ChosenSplit:
    """The split of a file's rows, the columns that are not fields because of it, and notes on them."""

    split: Split
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def choose_split(path: DataFile, frame: "pl.LazyFrame", requested: Split, roles: Collection[str]) -> ChosenSplit:
    """Return the requested split; otherwise that of a column with the name and values of a split; otherwise a random split.

    A column that is named like a split, or by which rows are split, is not a field; `roles` are the columns for which the user specified
    another role.

    Raises `DataError` if such a column does not hold names of splits, `UsageError` if there are several that do.
    """
    named = [name for name in find_split_columns(frame.collect_schema().names(), roles) if name != requested.source]
    split = requested
    if requested.source is None and named:
        columns = collect(frame.select(named), path)
        usable, errors = _usable_split_columns(path, columns)
        if not usable:
            raise errors[0]
        if len(usable) > 1:
            raise UsageError(
                f"The columns {' and '.join(repr(name) for name in usable)} of {path} both contain splits: choose one with --split, "
                "or leave out the others with --ignore."
            )
        split = replace(requested, column=usable[0])
    others = [name for name in named if name != split.source]
    notes = [
        f"'{name}' is excluded, since its name is that of a split; --categorical {name} uses it as a field."
        for name in others
    ]
    if split.column is None and split.source is not None and split.source not in roles:
        others.append(split.source)
        notes.append(
            f"'{split.source}' is excluded, since rows are split by it; --categorical {split.source} also uses it as a field."
        )
    if split.column is not None and split.column not in roles:
        others.append(split.column)
    return ChosenSplit(split, tuple(others), tuple(notes))


def _usable_split_columns(path: DataFile, columns: "pl.DataFrame") -> tuple[list[str], list[DataError]]:
    usable, errors = [], []
    for column in columns:
        try:
            split_by_words(path, column, _REMEDY.format(name=column.name))
            usable.append(column.name)
        except DataError as error:
            errors.append(error)
    return usable, errors
