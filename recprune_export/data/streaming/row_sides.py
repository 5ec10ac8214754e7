"""The side of each row of a stream, in small files beside it, so that queries of one side need no column in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.data.schema.schema import Split
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
    """How rows get their side: by a column, whose values have the sides `codes`, or at random where there is no column.

    In time, of numbers and times, the sides begin at the `borders` of valid and test.
    """

    split: Split
    description: str
    column: str | None = None
    codes: ValueCodes | None = None
    borders: tuple[Any, ...] = ()

    def sides(self, rows: "pl.DataFrame", first_row: int) -> np.ndarray:
        """Return the side of each row, int8 [N]; `first_row` is the position of the first in the file."""
        if self.codes is None:
            return draw_sides(self.split, first_row, len(rows))
        if self.borders:
            column = rows[self.codes.name]
            is_later = [(column >= border).to_numpy().astype(np.int8) for border in self.borders]
            return is_later[0] + is_later[1]
        return self.codes.encode(rows)


def choose_sides(path: DataFile, frame: "pl.LazyFrame", split: Split, remedy: str) -> SideRule:
    """Decide by all rows which side each has, as `split_rows` does; memory: the different values of the column.

    Raises `DataError` where `split_rows` does.
    """
    name = split.source
    if name is None:
        return SideRule(split, f"at random with seed {split.seed}")
    shares = (split.test, split.valid + split.test)
    distinct = (
        find_distinct(path, frame, name) if split.time is None else find_distinct_times(path, frame, name, shares)
    )
    values = distinct.table[name]
    row_split = split_rows(path, values, split, remedy, distinct.occurrences)
    borders: tuple[Any, ...] = ()
    if split.time is not None and (values.dtype.is_numeric() or values.dtype.is_temporal()):
        borders = tuple(values.filter(row_split.codes == code).min() for code in (1, 2))
    return SideRule(split, row_split.description, name, ValueCodes.of(values, row_split.codes), borders)


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
    """Yield the frame with the column `SIDE`; inside the block the sides lie in a temporary folder, a byte a row."""
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
    if rule.column is None and labels.all_known:
        for first_row in range(0, count, _FILE_ROWS):
            yield draw_sides(rule.split, first_row, min(_FILE_ROWS, count - first_row))
        return
    needed = list(
        dict.fromkeys((*((rule.column,) if rule.column else ()), *(() if labels.all_known else labels.names)))
    )
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


def draw_numbers(seed: int, first_row: int, count: int) -> np.ndarray:
    """Return the numbers from 0 to 1 that a generator of `seed` draws for `count` rows from `first_row` on, [count]."""
    generator = np.random.PCG64(seed)
    generator.advance(first_row)
    return np.random.Generator(generator).random(count)


def draw_sides(split: Split, first_row: int, count: int) -> np.ndarray:
    """Return the sides of `count` rows from `first_row` on, as `split_at_random` draws them for all rows.

    >>> whole = draw_sides(Split(), 0, 100)
    >>> bool((np.concatenate([whole[:30], draw_sides(Split(), 30, 70)]) == whole).all())
    True
    """
    draw = draw_numbers(split.seed, first_row, count)
    sides: np.ndarray = 2 - (draw >= split.test).astype(np.int8) - (draw >= split.test + split.valid).astype(np.int8)
    return sides
