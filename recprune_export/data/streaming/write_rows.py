"""`write_rows`: rows of files larger than memory are encoded once, into a file of records for each side."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.input_encoding import NUMERIC
from recprune_export.data.encoding.unknown_values import UnknownTally, tally_unknown
from recprune_export.data.records.record_file import RecordWriter
from recprune_export.data.records.streamed_rows import RowLayout, StreamedRows
from recprune_export.data.rows import Rows
from recprune_export.data.splits.row_split import SPLIT_NAMES
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.label_rules import LabelRules
from recprune_export.data.streaming.row_sides import CHUNK_ROWS, SIDE, read_chunks
from recprune_export.data.streaming.value_codes import ValueCodes
from recprune_export.number_formats import format_bytes
from recprune_export.output_files import check_free_space
from recprune_export.progress import print_status, track

if TYPE_CHECKING:
    import polars as pl

LARGEST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class WrittenRows:
    """The rows of each side, and the number of unknown ids by side and field."""

    sides: dict[str, StreamedRows]
    unknown: dict[str, dict[str, UnknownTally]]

    def tally(self, sides: Sequence[str]) -> dict[str, UnknownTally]:
        """Return the number of unknown ids of some sides, by field."""
        return {
            name: sum((self.unknown[side][name] for side in sides), UnknownTally()) for name in self.unknown[sides[0]]
        }


def write_rows(
    path: DataFile,
    frame: "pl.LazyFrame",
    count: int,
    encoder: Encoder,
    labels: LabelRules,
    groups: ValueCodes | None,
    readers: int,
) -> WrittenRows:
    """Encode the rows of a frame with the column `SIDE` into a file of records for each side, in one pass.

    Time O(rows); memory: that of a chunk and of the vocabularies.

    Raises `DataError` if rows cannot be read, `UsageError` if the disk of temporary files has too little space.
    """
    layout = _make_layout(encoder, labels, has_groups=groups is not None)
    writers = open_writers(layout, count)
    unknown: dict[str, dict[str, UnknownTally]] = {name: {} for name in SPLIT_NAMES}
    columns = list(dict.fromkeys((*encoder.schema.fields, *labels.columns, *((groups.name,) if groups else ()), SIDE)))
    chunks = read_chunks(path, frame, columns)
    for _, chunk in track(chunks, "Encoding rows", -(-count // CHUNK_ROWS)):
        sides = chunk[SIDE].to_numpy()
        rows = Rows(
            encoder.encode(chunk),
            labels.labels(chunk),
            weights=labels.weights(chunk),
            groups=None if groups is None else groups.encode(chunk),
        )
        records = layout.pack(rows)
        for side, (name, writer) in enumerate(zip(SPLIT_NAMES, writers, strict=True)):
            chosen = np.flatnonzero(sides == side)
            writer.write(records[chosen])
            request = {column: ids[chosen] for column, ids in rows.inputs.items()}
            for column, tally in tally_unknown(encoder, [request]).items():
                unknown[name][column] = unknown[name].get(column, UnknownTally()) + tally
    return WrittenRows(open_written(writers, layout, readers), unknown)


def open_writers(layout: RowLayout, count: int) -> list[RecordWriter]:
    """Open a temporary file for each side of `count` rows. Raises `UsageError` if the disk has too little space."""
    folder = Path(tempfile.gettempdir())
    size = layout.dtype.itemsize * count
    check_free_space({folder / "rows": size}, "the encoded rows")
    print_status(
        f"{count:,} rows are encoded once into temporary files in {folder}: {layout.dtype.itemsize} bytes each, "
        f"{format_bytes(size)}, which are deleted when this process ends."
    )
    return [RecordWriter(layout.dtype) for _ in SPLIT_NAMES]


def open_written(writers: Sequence[RecordWriter], layout: RowLayout, readers: int) -> dict[str, StreamedRows]:
    """Return the rows of each side after all are written. Raises `UsageError` if the disk is full."""
    return {
        name: StreamedRows.open(writer.finish(), layout, readers)
        for name, writer in zip(SPLIT_NAMES, writers, strict=True)
    }


def _make_layout(encoder: Encoder, labels: LabelRules, *, has_groups: bool) -> RowLayout:
    schema, lengths = encoder.schema, {field.name: field.max_length for field in encoder.schema.multi_valued}
    inputs: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(schema.categorical, ("int64", ()))
    inputs |= {name: ("int64", (length,)) for name, length in lengths.items()}
    if schema.dense_columns:
        inputs[NUMERIC] = ("float32", (len(schema.dense_columns),))
    narrow = frozenset(name for name, rows in encoder.rows.items() if rows <= LARGEST_INT32)
    return RowLayout(inputs, labels.names, schema.weight is not None, has_groups, narrow)
