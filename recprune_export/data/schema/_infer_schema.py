"""`infer_schema`: infer the roles of the columns of a file; the options of the user take precedence."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.data.read_labels import read_labels, refuse_texts
from recprune_export.data.schema.leakage import find_leaking_fields
from recprune_export.data.schema.schema import MultiValued, Schema, SequenceColumns, Split
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

SEPARATORS = ("|", ";", ",")
_SPLIT_NAMES = {"split", "fold", "subset"}
SPLIT_VALUES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    "test": "test",
}
_USERS = ("user", "user_id", "userid", "uid", "visitorid", "session", "session_id")
_ITEMS = ("item", "item_id", "itemid", "iid", "asin", "product_id", "movie_id")
_ORDERS = ("position", "order", "timestamp", "time", "ts", "date", "unixreviewtime")


@dataclass(frozen=True)
class SchemaOverrides:
    """The roles of columns that the user specified; the others are inferred.

    `multi_valued` holds "column" or "column:separator", `sequence` is "user,item,order".
    """

    labels: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multi_valued: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    split: str | None = None
    sequence: str | None = None
    max_length: int | None = None
    seed: int = 0
    missing_label: str | None = None
    weight: str | None = None


@dataclass(frozen=True)
class InferredSchema:
    """A schema, and a sentence for each column that is excluded from it."""

    schema: Schema
    notes: tuple[str, ...] = ()


def infer_schema(path: Path, overrides: SchemaOverrides) -> InferredSchema:
    """Infer the role of each column.

    Text and integers are categorical, floating-point numbers numeric, lists and texts with a separator multi-valued. A
    column with nearly as many values as rows, or one that leaks the label, is excluded and named in a note.

    Raises `DataError` if a column is missing or a label holds no numbers.
    """
    frame = scan(path)
    columns = frame.collect_schema().names()
    specified = (
        *overrides.labels,
        *overrides.categorical,
        *overrides.numeric,
        *overrides.ignore,
        *((overrides.split,) if overrides.split else ()),
        *((overrides.weight,) if overrides.weight else ()),
    )
    _check_columns(path, columns, (*specified, *(name.partition(":")[0] for name in overrides.multi_valued)))
    sample = collect(frame.head(100_000), path)
    if not len(sample):
        raise DataError(f"{path} has columns but no rows.")
    return _SchemaInference(path, _read_sample_labels(path, sample, overrides), overrides).run()


def infer_sequence_schema(path: Path, overrides: SchemaOverrides) -> Schema:
    """Infer the columns of user, item and order of a log.

    Raises `UsageError` if the names of the columns are not recognized, `DataError` if a specified column is missing.
    """
    columns = scan(path).collect_schema().names()
    if overrides.sequence is not None:
        roles = [name.strip() for name in overrides.sequence.split(",")]
        if len(roles) != 3:
            raise UsageError(f"--sequence '{overrides.sequence}' must name three columns: user,item,order.")
        _check_columns(path, columns, roles)
    else:
        lowered = {name.lower(): name for name in columns}
        roles = [next((lowered[n] for n in names if n in lowered), "") for names in (_USERS, _ITEMS, _ORDERS)]
        if "" in roles:
            raise UsageError(
                f"The columns of {path} ({', '.join(columns)}) do not show user, item and order: give --sequence user,item,order."
            )
    user, item, order = roles
    length = {} if overrides.max_length is None else {"max_length": overrides.max_length}
    return Schema(sequence=SequenceColumns(user, item, order, **length))


class _SchemaInference:
    def __init__(self, path: Path, sample: "pl.DataFrame", overrides: SchemaOverrides) -> None:
        self._path, self._sample, self._overrides = path, sample, overrides
        self._notes: list[str] = []

    def run(self) -> InferredSchema:
        overrides = self._overrides
        excluded = {*overrides.labels, *overrides.ignore, *((overrides.weight,) if overrides.weight else ())}
        split = overrides.split or _split_column(self._sample, excluded)
        separators = dict(_name_and_separator(text) for text in overrides.multi_valued)
        categorical: list[str] = []
        numeric: list[str] = []
        multi: list[MultiValued] = []
        for name in self._sample.columns:
            if name in (*excluded, split):
                continue
            separator = separators[name] if separators.get(name) else self._separator(name)
            if name in separators or (
                separator is not None and name not in (*overrides.categorical, *overrides.numeric)
            ):
                multi.append(self._multi_valued(name, separator))
            elif name in overrides.numeric:
                numeric.append(self._check_numeric(name))
            elif name in overrides.categorical or not self._is_key(name):
                is_number = name not in overrides.categorical and self._sample.schema[name].is_float()
                (numeric if is_number else categorical).append(name)
        fields = self._without_leaks(categorical, numeric)
        return InferredSchema(
            Schema(
                labels=overrides.labels,
                categorical=tuple(n for n in categorical if n in fields),
                numeric=tuple(n for n in numeric if n in fields),
                multi_valued=tuple(multi),
                split=Split(column=split, seed=overrides.seed),
                missing_label=overrides.missing_label,
                weight=overrides.weight,
            ),
            tuple(self._notes),
        )

    def _separator(self, name: str) -> str | None:
        """Return the separator of a text column whose values repeat across rows; "" for a list column."""
        import polars as pl

        column = self._sample[name].drop_nulls()
        if isinstance(column.dtype, pl.List | pl.Array):
            return ""
        if column.dtype != pl.String or not len(column):
            return None
        for separator in SEPARATORS:
            share = column.str.contains(separator, literal=True).mean()
            if float(share or 0.0) > 0.3:  # type: ignore[arg-type]
                values = column.str.split(separator).explode().str.strip_chars()
                return separator if values.n_unique() < column.n_unique() else None
        return None

    def _multi_valued(self, name: str, separator: str | None) -> MultiValued:
        import polars as pl

        column = self._sample[name]
        most = 20  # values of a row that are used
        if isinstance(column.dtype, pl.List | pl.Array):
            return MultiValued(name, None, min(most, _longest(column.cast(pl.List(column.dtype.inner)))))
        text = column.cast(pl.String)
        divider = separator or ","
        return MultiValued(name, divider, min(most, _longest(text.str.split(divider))))

    def _check_numeric(self, name: str) -> str:
        dtype = self._sample.schema[name]
        if not (dtype.is_numeric() or str(dtype) == "Boolean"):
            raise DataError(f"The column '{name}' of {self._path} holds {dtype}, so it cannot be a numeric field.")
        return name

    def _is_key(self, name: str) -> bool:
        """Return whether a column has nearly one value for each row: a row number, a time, a free text."""
        column = self._sample[name]
        if column.dtype.is_float():
            return False
        distinct = column.n_unique()
        if distinct > 1000 and distinct > 0.5 * len(column):
            self._notes.append(
                f"'{name}' has {distinct:,} different values in {len(column):,} rows and is excluded; "
                f"--categorical {name} uses it."
            )
            return True
        return False

    def _without_leaks(self, categorical: list[str], numeric: list[str]) -> set[str]:
        specified = {*self._overrides.categorical, *self._overrides.numeric}
        candidates = [name for name in (*categorical, *numeric) if name not in specified]
        leaks = find_leaking_fields(self._sample, self._overrides.labels, candidates)
        for name, leak in leaks.items():
            option = "--numeric" if name in numeric else "--categorical"
            self._notes.append(
                f"'{name}' alone predicts '{leak.label}' ({leak.measure} {leak.value:.3f}) and is excluded as a leak; "
                f"{option} {name} uses it."
            )
        return {*categorical, *numeric} - set(leaks)


def _check_columns(path: Path, columns: Collection[str], names: Collection[str]) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}'; its columns are {', '.join(columns)}.")


def _read_sample_labels(path: Path, sample: "pl.DataFrame", overrides: SchemaOverrides) -> "pl.DataFrame":
    """Return the sample with its labels as numbers, null where they are missing. Raises `DataError` for classes of texts."""
    import polars as pl

    columns = {name: sample[name].to_numpy() for name in overrides.labels}
    read = read_labels(path, columns, missing=overrides.missing_label)
    refuse_texts(path, read)
    return sample.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in read.labels.items())


def _split_column(sample: "pl.DataFrame", excluded: Collection[str]) -> str | None:
    import polars as pl

    for name in sample.columns:
        if name.lower() in _SPLIT_NAMES and name not in excluded and sample.schema[name] == pl.String:
            values = {str(value).lower() for value in sample[name].unique().to_list()}
            if values <= set(SPLIT_VALUES):
                return name
    return None


def _name_and_separator(text: str) -> tuple[str, str | None]:
    name, _, separator = text.partition(":")
    return name, separator or None


def _longest(lists: "pl.Series") -> int:
    return max(1, int(lists.list.len().max() or 1))  # type: ignore[arg-type]
