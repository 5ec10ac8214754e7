"""`infer_schema`: infer the roles of the columns of a file; the options of the user take precedence."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.canonical_text import canonical_text
from recprune_export.data.encoding.numeric_columns import can_be_number, is_no_number
from recprune_export.data.schema.column_roles import (
    ChosenRole,
    ColumnData,
    Role,
    can_be_multi_valued,
    choose_role,
    describe_ids,
    describe_list_ids,
    describe_missing_words,
    find_date_unit,
    find_decimal_comma,
    find_separator,
    holds_integers,
    is_vector,
)
from recprune_export.data.schema.column_summary import ColumnSummary, measure_columns
from recprune_export.data.schema.leakage import find_leaking_fields
from recprune_export.data.schema.schema import MultiValued, Schema, SequenceColumns, Split, VectorColumn
from recprune_export.data.tabular_files import (
    collect,
    count_texts,
    describe_encoding,
    is_parquet,
    read_column_names,
    scan,
)
from recprune_export.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

_SAMPLE_ROWS = 100_000
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

    `multi_valued` holds "column" or "column:separator", `sequence` is "user,item,order". `missing` are words that stand for a
    missing value, beside the usual ones. `separator` and `encoding` are those of a CSV file, None if they are detected.
    """

    labels: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multi_valued: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    split: str | None = None
    sequence: str | None = None
    max_length: int | None = None
    missing: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None
    seed: int = 0

    @property
    def csv_options(self) -> CsvOptions:
        """How a CSV file is read. Raises `UsageError` for an invalid separator or encoding."""
        return CsvOptions(self.separator, self.encoding)


@dataclass(frozen=True)
class InferredSchema:
    """A schema, how each column of the file is read, and a sentence for each column whose role may surprise."""

    schema: Schema
    columns: tuple[ColumnSummary, ...] = ()
    notes: tuple[str, ...] = ()


def infer_schema(path: Path, overrides: SchemaOverrides) -> InferredSchema:
    """Infer the role of each column.

    Text and integers are categorical; floating-point numbers and decimals numeric; lists and texts with a separator
    multi-valued; vectors of floats numbers side by side. Dates, times, binary and nested columns, a column with nearly as many values
    as rows, and one that leaks the label are excluded and named in a note.

    Raises `DataError` if a column is missing or cannot have the role that it is given, or a label is not 0 and 1.
    """
    options = overrides.csv_options
    columns = read_column_names(path, options)
    specified = (
        *overrides.labels,
        *overrides.categorical,
        *overrides.numeric,
        *overrides.ignore,
        *((overrides.split,) if overrides.split else ()),
    )
    _check_columns(path, columns, (*specified, *(name.partition(":")[0] for name in overrides.multi_valued)))
    read = [name for name in columns if name not in overrides.ignore]
    frame = scan(path, options, columns=read, missing=overrides.missing)
    sample = collect(frame.head(_SAMPLE_ROWS), path)
    if not len(sample):
        raise DataError(f"{path} has columns but no rows.")
    for label in overrides.labels:
        _check_label(path, sample, label)
    return _SchemaInference(path, frame, sample, overrides, columns).run()


def infer_sequence_schema(path: Path, overrides: SchemaOverrides) -> Schema:
    """Infer the columns of user, item and order of a log.

    Raises `UsageError` if the names of the columns are not recognized, `DataError` if a specified column is missing.
    """
    columns = read_column_names(path, overrides.csv_options)
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
    return Schema(sequence=SequenceColumns(user, item, order, **length), missing=overrides.missing)


def summarize_sequence(path: Path, schema: Schema, options: CsvOptions) -> tuple[ColumnSummary, ...]:
    """Return how the columns of a log are read."""
    sequence = schema.sequence
    assert sequence is not None
    roles = {sequence.user: "user", sequence.item: "item", sequence.order: "order"}
    frame = scan(path, options, columns=list(roles), missing=schema.missing)
    types, statistics = frame.collect_schema(), measure_columns(path, frame)
    return tuple(
        ColumnSummary(
            name, str(types[name]), role, None, *((statistics[name].low, statistics[name].high) if role == "order" else (None, None)),
            statistics[name].missing / max(statistics[name].rows, 1),
        )
        for name, role in roles.items()
    )  # fmt: skip


class _SchemaInference:
    def __init__(
        self,
        path: Path,
        frame: "pl.LazyFrame",
        sample: "pl.DataFrame",
        overrides: SchemaOverrides,
        columns: Collection[str],
    ) -> None:
        import polars as pl

        self._path, self._frame, self._sample, self._overrides, self._columns = path, frame, sample, overrides, columns
        self._notes = [*describe_encoding(path, overrides.csv_options)]
        self._roles: dict[str, ChosenRole] = {}
        self._separators = dict(_name_and_separator(text) for text in overrides.multi_valued)
        self._statistics = measure_columns(path, frame)
        texts = sample.columns if not is_parquet(path) else sample.select(pl.col(pl.String)).columns
        self._texts = count_texts(path, overrides.csv_options, texts, overrides.missing)

    def run(self) -> InferredSchema:
        overrides = self._overrides
        split = overrides.split or _split_column(self._sample, {*overrides.labels, *overrides.ignore})
        multi: list[MultiValued] = []
        for name in self._sample.columns:
            if name in (*overrides.labels, split):
                continue
            self._roles[name] = self._note_empty(name, self._requested_role(name)) or self._inferred_role(name)
            if self._roles[name].role == "multi-valued":
                multi.append(self._multi_valued(name, self._separators.get(name) or find_separator(self._sample[name])))
        self._exclude_leaks()
        self._note_values()
        schema = Schema(
            labels=overrides.labels,
            categorical=self._names("categorical"),
            numeric=self._names("numeric"),
            multi_valued=tuple(multi),
            split=Split(column=split, seed=overrides.seed),
            vectors=tuple(VectorColumn(n, self._statistics[n].longest or 0) for n in self._names("vector")),
            missing=overrides.missing,
        )
        return InferredSchema(schema, self._summaries(split), tuple(self._notes))

    def _names(self, role: Role) -> tuple[str, ...]:
        return tuple(name for name, chosen in self._roles.items() if chosen.role == role)

    def _column_data(self, name: str) -> ColumnData:
        return ColumnData(self._sample[name], self._statistics[name], self._texts.get(name))

    def _requested_role(self, name: str) -> ChosenRole | None:
        """Return the role that the user gives a column. Raises `DataError` if it cannot have it."""
        column = self._column_data(name)
        if name in self._separators:
            if not column.is_list and not can_be_multi_valued(column.dtype):
                raise DataError(
                    f"The column '{name}' of {self._path} holds {column.dtype}, so it cannot be a multi-valued field."
                )
            return ChosenRole("multi-valued", "", describe_list_ids(column))
        if name in self._overrides.numeric:
            return self._numeric_role(column)
        if name in self._overrides.categorical:
            if column.dtype.is_nested() or str(column.dtype) in ("Binary", "Object"):
                remedy = f"; --multi-valued {name} reads lists of ids" if column.is_list else ""
                raise DataError(
                    f"The column '{name}' of {self._path} holds {column.dtype}, so it cannot be a categorical field{remedy}."
                )
            note = describe_ids(column)
            return ChosenRole("categorical", "as requested", note if _changes_meaning(column) else "")
        return None

    def _note_empty(self, name: str, chosen: ChosenRole | None) -> ChosenRole | None:
        """Return a requested role with a note where the column has no value."""
        if chosen is None or not self._statistics[name].is_empty:
            return chosen
        return ChosenRole(chosen.role, "no values", f"'{name}' has no value in any row.")

    def _numeric_role(self, column: ColumnData) -> ChosenRole:
        import polars as pl

        name, path = column.name, self._path
        if is_vector(column):
            return ChosenRole("vector", f"{column.statistics.longest} numbers")
        if not can_be_number(column.dtype):
            raise DataError(f"The column '{name}' of {path} holds {column.dtype}, so it cannot be a numeric field.")
        no_number = is_no_number(pl.col(name), column.dtype, self._overrides.missing)
        wrong = self._frame.with_row_index("__row").filter(no_number)
        count = int(collect(wrong.select(pl.len()), path).item())
        if count:
            row, value = collect(wrong.select("__row", name).head(1), path).row(0)
            raise DataError(
                f"The column '{name}' of {path} holds '{value}' at row {row:,} ({count:,} such row{'' if count == 1 else 's'}), "
                f"so it cannot be a numeric field: --missing '{value}' takes the word for a missing value, --categorical {name} "
                f"reads ids, --ignore {name} does not read it."
            )
        unit = find_date_unit(column)
        if unit is not None:
            return ChosenRole("numeric", unit, f"'{name}' holds dates or times and is read as a number, in {unit}.")
        if example := find_decimal_comma(column):
            point = example.replace(",", ".")
            return ChosenRole(
                "numeric", "decimal commas", f"'{name}' is read with decimal commas: '{example}' is {point}."
            )
        return ChosenRole("numeric")

    def _inferred_role(self, name: str) -> ChosenRole:
        column = self._column_data(name)
        chosen = choose_role(column)
        if chosen.role == "categorical" and find_separator(column.sample) is not None:
            return ChosenRole("multi-valued")
        if chosen.role == "categorical":
            return self._key_role(name) or ChosenRole("categorical", "", describe_ids(column))
        return chosen

    def _note_values(self) -> None:
        """Add the notes of all columns, and one for all columns of whole numbers that might have the other role."""
        for name, chosen in self._roles.items():
            column = self._column_data(name)
            self._notes += [
                note
                for note in (chosen.note, self._note_words(column, chosen.role), self._note_spelling(column))
                if note
            ]
        numeric = [n for n in self._names("numeric") if n not in self._overrides.numeric and self._is_like_ids(n)]
        if numeric:
            gaps = any(self._statistics[name].missing for name in numeric)
            self._notes.append(
                f"{_quote(numeric)} hold{'s' if len(numeric) == 1 else ''} whole numbers as floats{', with gaps' if gaps else ''}: "
                f"read as a number; --categorical {numeric[0]} makes it ids."
            )
        given = {*self._overrides.categorical, *self._separators}
        fields = (*self._names("categorical"), *self._names("multi-valued"))
        ids = [n for n in fields if n not in given and holds_integers(self._sample.schema[n])]
        if ids:
            self._notes.append(f"Whole numbers are read as ids in {_quote(ids)}; --numeric {ids[0]} reads a number.")

    def _is_like_ids(self, name: str) -> bool:
        """Return whether floats or decimals are whole and repeat, as ids do where pandas wrote a column with gaps."""
        column = self._sample[name]
        is_number = column.dtype.is_float() or column.dtype.is_decimal()
        return is_number and self._statistics[name].is_whole and column.n_unique() <= 0.5 * len(column)

    def _note_words(self, column: ColumnData, role: Role) -> str:
        return "" if role == "excluded" else describe_missing_words(column, role)

    def _note_spelling(self, column: ColumnData) -> str:
        """Return a note where a categorical field of texts spells an id in several ways."""
        import polars as pl

        name = column.name
        if self._roles[name].role != "categorical" or str(column.dtype) != "String":
            return ""
        texts = column.sample.filter(column.sample != "").unique()
        canonical = pl.select(canonical_text(pl.lit(texts), texts.dtype)).to_series()
        changed = texts.filter(canonical.is_in(texts.implode()) & (canonical != texts))
        count = len(texts) - canonical.n_unique()
        if not count:
            return ""
        example = f", such as '{changed[0]}' for '{canonical.filter(texts == changed[0])[0]}'" if len(changed) else ""
        return f"'{name}' spells {count:,} ids in more than one way{example}: each is read as one id."

    def _summaries(self, split: str | None) -> tuple[ColumnSummary, ...]:
        return tuple(self._summary(name, split) for name in self._columns)

    def _summary(self, name: str, split: str | None) -> ColumnSummary:
        if name not in self._statistics:
            return ColumnSummary(name, "", "ignored", note="not read")
        statistics = self._statistics[name]
        chosen = self._roles.get(name)
        role = chosen.role if chosen else "split" if name == split else "label"
        is_number = role in ("numeric", "label")
        return ColumnSummary(
            name,
            str(self._sample.schema[name]),
            role,
            low=statistics.low if is_number else None,
            high=statistics.high if is_number else None,
            missing=statistics.missing / statistics.rows,
            note=chosen.reason if chosen else "",
        )

    def _multi_valued(self, name: str, separator: str | None) -> MultiValued:
        import polars as pl

        column = self._sample[name]
        most = 20  # values of a row that are used
        if isinstance(column.dtype, pl.List | pl.Array):
            return MultiValued(name, None, min(most, _longest(column.cast(pl.List(column.dtype.inner)))))
        text = column.cast(pl.String)
        divider = separator or ","
        return MultiValued(name, divider, min(most, _longest(text.str.split(divider))))

    def _key_role(self, name: str) -> ChosenRole | None:
        """Return that a column is excluded if it has nearly one value for each row: a row number, a time, a free text."""
        column = self._sample[name]
        distinct = column.n_unique()
        if distinct > 1000 and distinct > 0.5 * len(column):
            return ChosenRole(
                "excluded",
                "nearly a key",
                f"'{name}' has {distinct:,} different values in {len(column):,} rows and is excluded; "
                f"--categorical {name} uses it.",
            )
        return None

    def _exclude_leaks(self) -> None:
        specified = {*self._overrides.categorical, *self._overrides.numeric}
        candidates = [n for n in (*self._names("categorical"), *self._names("numeric")) if n not in specified]
        leaks = find_leaking_fields(self._sample, self._overrides.labels, candidates)
        for name, (label, area) in leaks.items():
            option = "--numeric" if self._roles[name].role == "numeric" else "--categorical"
            self._roles[name] = ChosenRole(
                "excluded",
                f"leaks '{label}'",
                f"'{name}' alone predicts '{label}' (AUC {area:.3f}) and is excluded as a leak; {option} {name} uses it.",
            )


def _changes_meaning(column: ColumnData) -> bool:
    """Return whether a column of numbers or dates becomes ids."""
    return column.dtype.is_float() or column.dtype.is_decimal() or find_date_unit(column) is not None


def _quote(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _check_columns(path: Path, columns: Collection[str], names: Collection[str]) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}'; its columns are {', '.join(columns)}.")


def _check_label(path: Path, sample: "pl.DataFrame", label: str) -> None:
    import polars as pl

    column = sample[label]
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(f"The label '{label}' of {path} holds {column.dtype}; it must be 0 or 1.")
    values = set(column.unique().cast(pl.Float64).to_list())
    if not values <= {0.0, 1.0}:
        invalid = next(iter(values - {0.0, 1.0}))
        raise DataError(
            f"The label '{label}' of {path} must be 0 or 1 in every row, but there is {'an empty one' if invalid is None else invalid}."
        )


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
