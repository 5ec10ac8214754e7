"""`infer_schema`: infer the roles of the columns of a file; the options of the user take precedence."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.column_names import check_columns_exist
from recprune_export.data.read_labels import read_labels, refuse_texts
from recprune_export.data.schema.leakage import find_leaking_fields
from recprune_export.data.schema.schema import MultiValued, Schema, SequenceColumns, Split
from recprune_export.data.splits.row_split import make_split
from recprune_export.data.splits.split_column import ChosenSplit, choose_split
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import SplitSettings

if TYPE_CHECKING:
    import polars as pl

SEPARATORS = ("|", ";", ",")
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
    split_by_time: str | None = None
    split_by_user: str | None = None
    sequence: str | None = None
    max_length: int | None = None
    seed: int = 0
    missing_label: str | None = None
    weight: str | None = None

    @property
    def requested_split(self) -> Split:
        """The split that the options ask for; at random where they name no column.

        Raises `UsageError` if they ask for several.
        """
        return make_split(SplitSettings(self.split, self.split_by_time, self.split_by_user), self.seed)

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that the user named, by option."""
        return {
            "--label": self.labels,
            "--categorical": self.categorical,
            "--numeric": self.numeric,
            "--multi-valued": tuple(text.partition(":")[0] for text in self.multi_valued),
            "--ignore": self.ignore,
            "--weight": (self.weight,) if self.weight else (),
            "--split": (self.split,) if self.split else (),
            "--split-by-time": (self.split_by_time,) if self.split_by_time else (),
            "--split-by-user": (self.split_by_user,) if self.split_by_user else (),
        }


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
    for option, names in overrides.columns.items():
        check_columns_exist(path, names, columns, f"which {option} names")
    requested = overrides.requested_split
    roles = [name for option, names in overrides.columns.items() if not option.startswith("--split") for name in names]
    chosen = choose_split(path, frame, requested, roles)
    sample = collect(frame.head(100_000), path)
    if not len(sample):
        raise DataError(f"{path} has columns but no rows.")
    return _SchemaInference(path, _read_sample_labels(path, sample, overrides), overrides, chosen).run()


def infer_sequence_schema(path: Path, overrides: SchemaOverrides) -> Schema:
    """Infer the columns of user, item and order of a log.

    Raises `UsageError` if the names of the columns are not recognized, `DataError` if a specified column is missing.
    """
    columns = scan(path).collect_schema().names()
    if overrides.sequence is not None:
        roles = [name.strip() for name in overrides.sequence.split(",")]
        if len(roles) != 3:
            raise UsageError(f"--sequence '{overrides.sequence}' must name three columns: user,item,order.")
        check_columns_exist(path, roles, columns, "which --sequence names")
    else:
        lowered = {name.lower(): name for name in columns}
        roles = [next((lowered[n] for n in names if n in lowered), "") for names in (_USERS, _ITEMS, _ORDERS)]
        if "" in roles:
            raise UsageError(
                f"The columns of {path} ({', '.join(columns)}) do not show user, item and order: give --sequence user,item,order."
            )
    user, item, order = roles
    length = {} if overrides.max_length is None else {"max_length": overrides.max_length}
    return Schema(sequence=SequenceColumns(user, item, order, **length), split=_sequence_split(overrides, order))


def _sequence_split(overrides: SchemaOverrides, order: str) -> Split:
    """Return the default, leave-one-out, or the split by time."""
    requested = overrides.requested_split
    if requested.source is None:
        return Split()
    if requested.time != order:
        raise UsageError(
            "The histories of a log are split by leave-one-out, or in time by the column that orders them: give "
            f"--split-by-time {order}, or no option of a split."
        )
    return requested


class _SchemaInference:
    def __init__(self, path: Path, sample: "pl.DataFrame", overrides: SchemaOverrides, chosen: ChosenSplit) -> None:
        self._path, self._sample, self._overrides, self._chosen = path, sample, overrides, chosen
        self._notes = list(chosen.notes)

    def run(self) -> InferredSchema:
        overrides = self._overrides
        separators = dict(_name_and_separator(text) for text in overrides.multi_valued)
        categorical: list[str] = []
        numeric: list[str] = []
        multi: list[MultiValued] = []
        for name in self._sample.columns:
            if name in (*overrides.labels, *overrides.ignore, overrides.weight, *self._chosen.columns):
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
                split=self._chosen.split,
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


def _read_sample_labels(path: Path, sample: "pl.DataFrame", overrides: SchemaOverrides) -> "pl.DataFrame":
    """Return the sample with its labels as numbers, null where they are missing. Raises `DataError` for classes of texts."""
    import polars as pl

    columns = {name: sample[name].to_numpy() for name in overrides.labels}
    read = read_labels(path, columns, missing=overrides.missing_label)
    refuse_texts(path, read)
    return sample.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in read.labels.items())


def _name_and_separator(text: str) -> tuple[str, str | None]:
    name, _, separator = text.partition(":")
    return name, separator or None


def _longest(lists: "pl.Series") -> int:
    return max(1, int(lists.list.len().max() or 1))  # type: ignore[arg-type]
