"""`stream_arrays`: rows for a third-party model, checked in one pass over a file and written as records in a second one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.array_checks import ArrayChecks, HasAnswer
from recprune_export.data.array_spec import ArraySpec
from recprune_export.data.list_columns import absent_value, check_lists
from recprune_export.data.named_columns import refuse_uneven_lists, stack_columns
from recprune_export.data.records.streamed_rows import RowLayout, StreamedRows
from recprune_export.data.rows import Rows
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.label_rules import LabelRules
from recprune_export.data.streaming.row_sides import CHUNK_ROWS, SideRule, read_chunks
from recprune_export.data.streaming.value_codes import ValueCodes
from recprune_export.data.streaming.write_rows import LARGEST_INT32, open_writers, open_written
from recprune_export.data.tabular_files import collect
from recprune_export.progress import track

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ArrayColumns:
    """The columns of a file that contain the inputs: `sources` has the columns of each input, one or several."""

    path: DataFile
    frame: "pl.LazyFrame"
    count: int
    inputs: tuple[ArraySpec, ...]
    sources: Mapping[str, Sequence[str]]

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for spec in self.inputs for name in self.sources[spec.name]]

    @property
    def jagged(self) -> list[str]:
        """The inputs whose rows have different numbers of elements."""
        return [spec.name for spec in self.inputs if spec.jagged is not None]

    def read(self, rows: "pl.DataFrame") -> dict[str, np.ndarray]:
        """Return the arrays of some rows."""
        sources = {spec.name: self.sources[spec.name] for spec in self.inputs}
        return stack_columns(rows, sources, str(self.path), self.jagged)


def can_stream(
    types: "pl.Schema", inputs: Sequence[ArraySpec], sources: Mapping[str, Sequence[str]], others: Sequence[str]
) -> bool:
    """Return whether rows can be streamed: lists must contain numbers, and belong to an input with one column.

    `sources` has the columns of the inputs, `others` are the other columns that are read, such as labels.
    """
    columns = [sources[spec.name] for spec in inputs]
    single = {names[0] for names in columns if len(names) == 1 and _holds_lists_of_numbers(types[names[0]])}
    return not any(
        types[name].is_nested() for name in {name for names in columns for name in names} - single
    ) and not any(types[name].is_nested() for name in others)


def count_values(
    path: DataFile, frame: "pl.LazyFrame", inputs: Sequence[ArraySpec], sources: Mapping[str, Sequence[str]]
) -> int:
    """Return the number of values in memory for a row of all columns in `sources`, with lists padded to the longest."""
    import polars as pl

    types, specs = frame.collect_schema(), {spec.name: spec for spec in inputs}
    values = 0
    for name, columns in sources.items():
        spec = specs.get(name)
        if spec is not None and spec.jagged is not None and isinstance(types[columns[0]], pl.List):
            values += collect(frame.select(pl.col(columns[0]).list.len().max()), path).item() or 1
        else:
            values += 1 if spec is None else int(np.prod(spec.shape))
    return values


def even_lists(columns: ArrayColumns) -> ArrayColumns:
    """Return the columns with lists of one length as arrays. Raises `DataError` for lists that no input takes."""
    import polars as pl

    types, frame = columns.frame.collect_schema(), columns.frame
    for spec in columns.inputs:
        source = columns.sources[spec.name]
        name, dtype = source[0], types[source[0]]
        if not isinstance(dtype, pl.List | pl.Array):
            continue
        if spec.jagged is not None:
            lists = pl.col(name).cast(pl.List(dtype.inner))
            check_lists(columns.path, columns.frame.select(lists))
            frame = frame.with_columns(lists)
        elif isinstance(dtype, pl.List):
            lengths = columns.frame.select(pl.col(name).list.len().drop_nulls().unique())
            length = refuse_uneven_lists(name, collect(lengths, columns.path)[name].to_list())
            frame = frame.with_columns(pl.col(name).list.to_array(length))
    return replace(columns, frame=frame)


def check_arrays(columns: ArrayColumns, has_answer: HasAnswer | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of a row of each input, for lists that of the longest; one pass over the inputs.

    Raises `DataError` for arrays that `load_arrays` refuses.
    """
    checks = ArrayChecks(str(columns.path), columns.inputs, has_answer)
    shapes: dict[str, tuple[int, ...]] = {}
    chunks = read_chunks(columns.path, columns.frame, columns.names)
    for first_row, chunk in track(chunks, "Checking rows", -(-columns.count // CHUNK_ROWS)):
        for name, values in checks.add(columns.read(chunk), first_row).items():
            longest = max(values.shape[1:2], shapes.get(name, ())[:1])
            shapes[name] = (*longest, *values.shape[2:])
    checks.raise_error()
    return shapes


def write_arrays(
    columns: ArrayColumns,
    shapes: Mapping[str, tuple[int, ...]],
    labels: LabelRules,
    groups: ValueCodes | None,
    rule: SideRule,
    readers: int,
) -> dict[str, StreamedRows]:
    """Write checked rows with a label into a file of records for each side, in one pass.

    Raises `DataError` if rows cannot be read, `UsageError` if the disk of temporary files has too little space.
    """
    layout = RowLayout(
        {spec.name: (spec.dtype, shapes[spec.name]) for spec in columns.inputs},
        labels.names,
        labels.weight is not None,
        groups is not None,
        frozenset(spec.name for spec in columns.inputs if _has_small_ids(spec)),
    )
    writers = open_writers(layout, columns.count)
    checks = ArrayChecks(str(columns.path), columns.inputs)  # which give arrays their dtype
    others = [*labels.columns, *((groups.name,) if groups else ()), *rule.columns]
    chunks = read_chunks(columns.path, columns.frame, list(dict.fromkeys((*columns.names, *others))))
    for first_row, chunk in track(chunks, "Encoding rows", -(-columns.count // CHUNK_ROWS)):
        requests = checks.add(columns.read(chunk), first_row)
        rows = Rows(
            {
                name: _pad(values, shapes[name]) if name in columns.jagged else values
                for name, values in requests.items()
            },
            labels.labels(chunk),
            weights=labels.weights(chunk),
            groups=None if groups is None else groups.encode(chunk),
        )
        records, sides = layout.pack(rows), rule.sides(chunk, first_row)
        known = ~np.logical_and.reduce([np.isnan(values) for values in rows.labels.values()]) if rows.labels else True
        for side, writer in enumerate(writers):
            writer.write(records[(sides == side) & known])
    return open_written(writers, layout, readers)


def _holds_lists_of_numbers(dtype: "pl.DataType") -> bool:
    import polars as pl

    if not isinstance(dtype, pl.List | pl.Array) or (isinstance(dtype, pl.Array) and len(dtype.shape) > 1):
        return False
    inner = dtype.inner
    return isinstance(inner, pl.DataType) and inner.is_numeric() and not inner.is_decimal()


def _has_small_ids(spec: ArraySpec) -> bool:
    return (
        spec.dtype == "int64"
        and bool(spec.ids)
        and all(pair is not None and pair[0] >= -LARGEST_INT32 and pair[1] <= LARGEST_INT32 for pair in spec.ids)
    )


def _pad(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return lists [N, most, ...] with as many elements as `shape` has; absent ones are marked."""
    padded = np.full((len(values), *shape), absent_value(values.dtype), dtype=values.dtype)
    padded[:, : values.shape[1]] = values
    return padded
