"""The side of each row of a stream, stored in small files, so that queries of one side need no column in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.data.schema.schema import Split
from recprune_export.data.splits.random_sides import DrawSides, describe_random_sides, draw_sides
from recprune_export.data.splits.row_split import split_rows
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.distinct_values import find_distinct, find_distinct_times
from recprune_export.data.streaming.label_rules import LabelRules
from recprune_export.data.streaming.value_codes import ValueCodes
from recprune_export.data.tabular_files import raise_data_errors

if TYPE_CHECKING:
    import polars as pl

CHUNK_ROWS = 1 << 17  # rows that are encoded together
SIDE = "__side"
LEFT_OUT = 3  # the side of rows without a label
_FILE_ROWS = 1 << 22


@dataclass(frozen=True)
class SideRule:
    """How rows get their side: by the values of a column, which have the sides `codes`, or without one by `draw`, at random.

    In time, of numbers and times, the sides begin at the `borders` of valid and test.
    """

    split: Split
    description: str
    codes: ValueCodes | None = None
    borders: tuple[Any, ...] = ()
    draw: DrawSides = draw_sides

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that is read, if there is one."""
        return () if self.codes is None else (self.codes.name,)

    def sides(self, rows: "pl.DataFrame", first_row: int) -> np.ndarray:
        """Return the side of each row, int8 [N]; `first_row` is the position of the first in the file."""
        if self.codes is None:
            return self.draw(self.split, first_row, len(rows))
        if self.borders:
            column = rows[self.codes.name]
            is_later = [(column >= border).to_numpy().astype(np.int8) for border in self.borders]
            return is_later[0] + is_later[1]
        return self.codes.encode(rows)


def choose_sides(
    path: DataFile, frame: "pl.LazyFrame", split: Split, remedy: str, draw: DrawSides = draw_sides
) -> SideRule:
    """Decide from all rows which side each has, as `split_rows` does; memory: the distinct values of the column. Without a column, `draw`
    decides.

    Raises `DataError` if `split_rows` does.
    """
    name = split.source
    if name is None:
        return SideRule(split, describe_random_sides(split), draw=draw)
    shares = (split.test, split.valid + split.test)
    distinct = (
        find_distinct(path, frame, name) if split.time is None else find_distinct_times(path, frame, name, shares)
    )
    values = distinct.table[name]
    row_split = split_rows(path, values, split, remedy, distinct.occurrences)
    borders: tuple[Any, ...] = ()
    if split.time is not None and (values.dtype.is_numeric() or values.dtype.is_temporal()):
        borders = tuple(values.filter(row_split.codes == code).min() for code in (1, 2))
    return SideRule(split, row_split.description, ValueCodes.of(values, row_split.codes), borders)


def read_chunks(
    path: DataFile, frame: "pl.LazyFrame", columns: Sequence[str] | None = None
) -> "Iterator[tuple[int, pl.DataFrame]]":
    """Yield the rows in order, `CHUNK_ROWS` at a time, each chunk with the position of its first row."""
    first_row = 0
    with raise_data_errors(path):
        chosen = frame if columns is None else frame.select(columns)
        for chunk in chosen.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True, engine="streaming"):
            if len(chunk):
                yield first_row, chunk
                first_row += len(chunk)


@contextmanager
def add_sides(
    path: DataFile, frame: "pl.LazyFrame", count: int, rule: SideRule, labels: LabelRules
) -> "Iterator[pl.LazyFrame]":
    """Yield the frame with the column `SIDE`; inside the block the sides are in a temporary folder, one byte per row."""
    import polars as pl

    with TemporaryDirectory(prefix="recprune-sides-") as folder:
        files: list[Path] = []
        for sides in _gather(_read_sides(path, frame, count, rule, labels)):
            files.append(Path(folder, f"{len(files):06}.arrow"))
            pl.DataFrame({SIDE: sides}).write_ipc(files[-1])
        yield pl.concat([frame, pl.scan_ipc(files)], how="horizontal")


def _read_sides(
    path: DataFile, frame: "pl.LazyFrame", count: int, rule: SideRule, labels: LabelRules
) -> Iterator[np.ndarray]:
    if rule.codes is None and labels.all_known:
        for first_row in range(0, count, _FILE_ROWS):
            yield rule.draw(rule.split, first_row, min(_FILE_ROWS, count - first_row))
        return
    needed = list(dict.fromkeys((*rule.columns, *(() if labels.all_known else labels.names))))
    for first_row, chunk in read_chunks(path, frame, needed):
        sides = rule.sides(chunk, first_row)
        if not labels.all_known:
            missing = [np.isnan(values) for values in labels.labels(chunk).values()]
            sides = np.where(np.logical_and.reduce(missing), np.int8(LEFT_OUT), sides)
        yield sides


def _gather(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield chunks joined to arrays of about `_FILE_ROWS`."""
    held: list[np.ndarray] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= _FILE_ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)
