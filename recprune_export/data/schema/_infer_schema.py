"""`infer_schema`: infer the roles of the columns of a file; the options of the user take precedence."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recprune_export.column_names import check_columns_exist
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.canonical_text import canonical_text
from recprune_export.data.encoding.input_encoding import NUMERIC
from recprune_export.data.encoding.numeric_columns import can_be_number, is_no_number
from recprune_export.data.read_labels import read_labels, refuse_texts
from recprune_export.data.schema.column_roles import (
    DATE_EXAMPLE,
    ChosenRole,
    ColumnData,
    Role,
    can_be_multi_valued,
    choose_role,
    describe_ids,
    describe_list_ids,
    describe_missing_words,
    describe_numbers_in_text,
    find_date_unit,
    find_decimal_comma,
    find_other_date,
    find_separator,
    holds_integers,
    is_vector,
)
from recprune_export.data.schema.column_summary import ColumnSummary, measure_columns
from recprune_export.data.schema.leakage import find_leaking_fields
from recprune_export.data.schema.schema import MultiValued, Schema, SequenceColumns, Split, VectorColumn
from recprune_export.data.splits.row_split import make_split
from recprune_export.data.splits.split_column import ChosenSplit, choose_split
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import (
    collect,
    count_texts,
    describe_encoding,
    is_parquet,
    read_column_names,
    scan,
)
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import SplitSettings

if TYPE_CHECKING:
    import polars as pl

_SAMPLE_ROWS = 100_000
_USERS = ("user", "user_id", "userid", "uid", "visitorid", "session", "session_id")
_ITEMS = ("item", "item_id", "itemid", "iid", "asin", "product_id", "movie_id")
_ORDERS = ("position", "order", "timestamp", "time", "ts", "date", "unixreviewtime")


@dataclass(frozen=True)
class SchemaOverrides:
    """The roles of columns that the user specified; the others are inferred.

    `multi_valued` holds "column" or "column:separator", `sequence` is "user,item,order". `missing` are words that stand for a
    missing value, in addition to the usual ones. `separator` and `encoding` are those of a CSV file, None if they are detected.
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
    missing: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None
    seed: int = 0
    missing_label: str | None = None
    weight: str | None = None

    @property
    def requested_split(self) -> Split:
        """The split of the options; at random if they contain no column.

        Raises `UsageError` if they contain several.
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

    @property
    def csv_options(self) -> CsvOptions:
        """How a CSV file is read. Raises `UsageError` for an invalid separator or encoding."""
        return CsvOptions(self.separator, self.encoding)


@dataclass(frozen=True)
class InferredSchema:
    """A schema, how each column of the file is read, and a sentence for each column whose role may be unexpected."""

    schema: Schema
    columns: tuple[ColumnSummary, ...] = ()
    notes: tuple[str, ...] = ()


def infer_schema(path: DataFile, overrides: SchemaOverrides) -> InferredSchema:
    """Infer the role of each column.

    Text and integers are categorical; floating-point numbers and decimals numeric; lists and strings with a separator
    multi-valued; vectors of floats numbers side by side. Dates, times, binary and nested columns, a column with nearly as many values
    as rows, and one that leaks the label are excluded and named in a note.

    Raises `DataError` if a column is missing or cannot have the role that it is given, or a label holds no numbers.
    """
    options = overrides.csv_options
    columns = read_column_names(path, options)
    for option, names in overrides.columns.items():
        check_columns_exist(path, names, columns, f"given with {option}")
    read = [name for name in columns if name not in overrides.ignore]
    frame = scan(path, options, columns=read, missing=overrides.missing)
    roles = [name for option, names in overrides.columns.items() if not option.startswith("--split") for name in names]
    chosen = choose_split(path, frame, overrides.requested_split, roles)
    sample = collect(frame.head(_SAMPLE_ROWS), path)
    if not len(sample):
        raise DataError(f"{path} has columns but no rows.")
    labels = _read_sample_labels(path, sample, overrides)
    return _SchemaInference(path, frame, sample, overrides, columns, chosen, labels).run()


def infer_sequence_schema(path: DataFile, overrides: SchemaOverrides) -> Schema:
    """Infer the columns of user, item and order of a log.

    Raises `UsageError` if the names of the columns are not recognized, `DataError` if a specified column is missing.
    """
    columns = read_column_names(path, overrides.csv_options)
    if overrides.sequence is not None:
        roles = [name.strip() for name in overrides.sequence.split(",")]
        if len(roles) != 3:
            raise UsageError(f"--sequence '{overrides.sequence}' must consist of three columns: user,item,order.")
        check_columns_exist(path, roles, columns, "given with --sequence")
    else:
        lowered = {name.lower(): name for name in columns}
        roles = [next((lowered[n] for n in names if n in lowered), "") for names in (_USERS, _ITEMS, _ORDERS)]
        if "" in roles:
            raise UsageError(
                f"The columns of {path} ({', '.join(columns)}) do not identify user, item and order: give --sequence user,item,order."
            )
    user, item, order = roles
    length = {} if overrides.max_length is None else {"max_length": overrides.max_length}
    return Schema(
        sequence=SequenceColumns(user, item, order, **length),
        split=_sequence_split(overrides, order),
        missing=overrides.missing,
    )


def _sequence_split(overrides: SchemaOverrides, order: str) -> Split:
    """Return the default, leave-one-out, or the split by time."""
    requested = overrides.requested_split
    if requested.source is None:
        return Split()
    if requested.time != order:
        raise UsageError(
            "The histories of a log are split by leave-one-out, or in time by the column that orders them: give "
            f"--split-by-time {order}, or no split option."
        )
    return requested


def summarize_sequence(path: DataFile, schema: Schema, options: CsvOptions) -> tuple[ColumnSummary, ...]:
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
        path: DataFile,
        frame: "pl.LazyFrame",
        sample: "pl.DataFrame",
        overrides: SchemaOverrides,
        columns: Collection[str],
        chosen: ChosenSplit,
        labels: "Sequence[pl.Series]",
    ) -> None:
        import polars as pl

        self._path, self._frame, self._sample, self._overrides, self._columns = path, frame, sample, overrides, columns
        self._chosen, self._labels = chosen, labels
        self._notes = [*describe_encoding(path, overrides.csv_options), *chosen.notes]
        self._roles: dict[str, ChosenRole] = {}
        self._separators = dict(_name_and_separator(text) for text in overrides.multi_valued)
        self._statistics = measure_columns(path, frame)
        texts = sample.columns if not is_parquet(path) else sample.select(pl.col(pl.String)).columns
        self._texts = count_texts(path, overrides.csv_options, texts, overrides.missing)

    def run(self) -> InferredSchema:
        overrides = self._overrides
        multi: list[MultiValued] = []
        for name in self._sample.columns:
            if name in (*overrides.labels, overrides.weight, *self._chosen.columns):
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
            split=self._chosen.split,
            missing_label=overrides.missing_label,
            weight=overrides.weight,
            vectors=tuple(VectorColumn(n, self._statistics[n].longest or 0) for n in self._names("vector")),
            missing=overrides.missing,
        )
        _check_input_names(schema, self._path)
        return InferredSchema(schema, self._summaries(), tuple(self._notes))

    def _names(self, role: Role) -> tuple[str, ...]:
        return tuple(name for name, chosen in self._roles.items() if chosen.role == role)

    def _column_data(self, name: str) -> ColumnData:
        return ColumnData(self._sample[name], self._statistics[name], self._texts.get(name))

    def _requested_role(self, name: str) -> ChosenRole | None:
        """Return the role that the user specifies for a column. Raises `DataError` if the column cannot have it."""
        column = self._column_data(name)
        if name in self._separators:
            if not column.is_list and not can_be_multi_valued(column.dtype):
                raise DataError(
                    f"The column '{name}' of {self._path} contains {column.dtype}, so it cannot be a multi-valued field."
                )
            return ChosenRole("multi-valued", "", describe_list_ids(column))
        if name in self._overrides.numeric:
            return self._numeric_role(column)
        if name in self._overrides.categorical:
            if column.dtype.is_nested() or str(column.dtype) in ("Binary", "Object"):
                remedy = f"; --multi-valued {name} reads lists of ids" if column.is_list else ""
                raise DataError(
                    f"The column '{name}' of {self._path} contains {column.dtype}, so it cannot be a categorical field{remedy}."
                )
            note = describe_ids(column)
            return ChosenRole("categorical", "as requested", note if _changes_meaning(column) else "")
        return None

    def _note_empty(self, name: str, chosen: ChosenRole | None) -> ChosenRole | None:
        """Return a requested role with a note if the column has no value."""
        if chosen is None or not self._statistics[name].is_empty:
            return chosen
        return ChosenRole(chosen.role, "no values", f"'{name}' has no value in any row.")

    def _numeric_role(self, column: ColumnData) -> ChosenRole:
        import polars as pl

        name, path = column.name, self._path
        if is_vector(column):
            return ChosenRole("vector", f"{column.statistics.longest} numbers")
        if not can_be_number(column.dtype):
            raise DataError(f"The column '{name}' of {path} contains {column.dtype}, so it cannot be a numeric field.")
        no_number = is_no_number(pl.col(name), column.dtype, self._overrides.missing)
        wrong = self._frame.with_row_index("__row").filter(no_number)
        count = int(collect(wrong.select(pl.len()), path).item())
        if count:
            row, value = collect(wrong.select("__row", name).head(1), path).row(0)
            if find_other_date(column):
                remedy = f"write dates and times as {DATE_EXAMPLE}, without a zone"
            else:
                remedy = f"--missing '{value}' reads it as a missing value"
            raise DataError(
                f"The column '{name}' of {path} contains '{value}' at row {row:,} ({count:,} such row{'' if count == 1 else 's'}), "
                f"so it cannot be a numeric field: {remedy}, --categorical {name} reads ids, --ignore {name} does not read it."
            )
        unit = find_date_unit(column)
        if unit is not None:
            return ChosenRole("numeric", unit, f"'{name}' contains dates or times and is read as a number, in {unit}.")
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
        """Add the notes of all columns, and one for all columns of integers that might have the other role."""
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
                f"read as a number; --categorical {numeric[0]} reads ids."
            )
        given = {*self._overrides.categorical, *self._separators}
        fields = (*self._names("categorical"), *self._names("multi-valued"))
        ids = [n for n in fields if n not in given and holds_integers(self._sample.schema[n])]
        if ids:
            self._notes.append(f"Integers are read as ids in {_quote(ids)}; --numeric {ids[0]} reads numbers.")

    def _is_like_ids(self, name: str) -> bool:
        """Return whether floats or decimals are integers and repeat, like ids that pandas wrote in a column with missing values."""
        column = self._sample[name]
        is_number = column.dtype.is_float() or column.dtype.is_decimal()
        return is_number and self._statistics[name].is_whole and column.n_unique() <= 0.5 * len(column)

    def _note_words(self, column: ColumnData, role: Role) -> str:
        return "" if role == "excluded" else describe_missing_words(column, role)

    def _note_spelling(self, column: ColumnData) -> str:
        """Return a note if a categorical field of strings spells an id in several ways."""
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
        return f"'{name}' contains {count:,} ids with more than one spelling{example}: each is read as one id."

    def _summaries(self) -> tuple[ColumnSummary, ...]:
        return tuple(self._summary(name) for name in self._columns)

    def _summary(self, name: str) -> ColumnSummary:
        if name not in self._statistics:
            return ColumnSummary(name, "", "ignored", note="not read")
        statistics = self._statistics[name]
        chosen = self._roles.get(name)
        role = chosen.role if chosen else self._role_beside_fields(name)
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

    def _role_beside_fields(self, name: str) -> str:
        if name in self._overrides.labels:
            return "label"
        return "weight" if name == self._overrides.weight else "split"

    def _multi_valued(self, name: str, separator: str | None) -> MultiValued:
        import polars as pl

        column = self._sample[name]
        most = 20  # the number of values of a row that are used
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
                "almost unique per row",
                f"'{name}' has {distinct:,} different values in {len(column):,} rows and is excluded; "
                f"--categorical {name} uses it{describe_numbers_in_text(self._column_data(name))}.",
            )
        return None

    def _exclude_leaks(self) -> None:
        specified = {*self._overrides.categorical, *self._overrides.numeric}
        candidates = [n for n in (*self._names("categorical"), *self._names("numeric")) if n not in specified]
        leaks = find_leaking_fields(self._sample.with_columns(self._labels), self._overrides.labels, candidates)
        for name, leak in leaks.items():
            option = "--numeric" if self._roles[name].role == "numeric" else "--categorical"
            self._roles[name] = ChosenRole(
                "excluded",
                f"leaks '{leak.label}'",
                f"'{name}' alone predicts '{leak.label}' ({leak.measure} {leak.value:.3f}) and is excluded as a leak; "
                f"{option} {name} uses it.",
            )


def _changes_meaning(column: ColumnData) -> bool:
    """Return whether a column of numbers or dates becomes ids."""
    return column.dtype.is_float() or column.dtype.is_decimal() or find_date_unit(column) is not None


def _quote(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _read_sample_labels(path: DataFile, sample: "pl.DataFrame", overrides: SchemaOverrides) -> "list[pl.Series]":
    """Return the labels of the sample as numbers, null where they are missing. Raises `DataError` for classes of strings."""
    import polars as pl

    columns = {name: sample[name].to_numpy() for name in overrides.labels}
    read = read_labels(path, columns, missing=overrides.missing_label)
    refuse_texts(path, read)
    return [pl.Series(name, values, nan_to_null=True) for name, values in read.labels.items()]


def _name_and_separator(text: str) -> tuple[str, str | None]:
    name, _, separator = text.partition(":")
    return name, separator or None


def _longest(lists: "pl.Series") -> int:
    return max(1, int(lists.list.len().max() or 1))  # type: ignore[arg-type]


def _check_input_names(schema: Schema, path: DataFile) -> None:
    """Raise `DataError` if two inputs of the model, or two of its numbers, would have the same name."""
    numbers = schema.dense_columns
    ids = (*schema.categorical, *(several.name for several in schema.multi_valued))
    if numbers and NUMERIC in ids:
        raise DataError(
            f"The column '{NUMERIC}' of {path} contains ids, but this name is reserved for the input of all "
            "numeric columns: rename the column, or give "
            f"--ignore {NUMERIC}."
        )
    repeated = next((name for name in schema.numeric if numbers.count(name) > 1), None)
    if repeated is not None:
        raise DataError(
            f"The column '{repeated}' of {path} has the same name as an element of the vector '{repeated.rpartition('_')[0]}': rename the "
            f"column, or give --ignore {repeated}."
        )
