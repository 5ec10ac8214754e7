"""`store_tables`: write the streamed tables of a program, when they are small enough, to memory-mapped temporary files."""

import mmap

import torch
from torch import Tensor, nn

from recprune_export.errors import ModelError
from recprune_export.mapped_pages import register_map
from recprune_export.number_formats import format_bytes
from recprune_export.output_files import reserve_temporary_file
from recprune_export.program.program import Program
from recprune_export.program.row_chunks import row_chunks
from recprune_export.program.streamed_tables.streamed_table import StreamedTable, find_streamed_tables

_CHUNK_ELEMENTS = 1 << 20
_OWNER = "tables cut from files"  # of their maps


def store_tables(program: Program) -> Program:
    """Return a program whose streamed tables are in unnamed temporary files, which are deleted with it.

    Time: one read of the sources of the tables. Memory: a chunk of rows; pages of the maps leave memory when the
    system needs it.

    Raises `ModelError` if the disk of temporary files has no space.
    """
    tables = find_streamed_tables(program.module)
    return program.with_tensors({name: _store(table) for name, table in tables.items()}) if tables else program


def _store(table: StreamedTable) -> nn.Parameter:
    file = reserve_temporary_file(table.nbytes)
    if file is None:
        raise ModelError(
            f"The disk for temporary files has no space for '{table.rows.name}' of {format_bytes(table.nbytes)}: free some disk "
            "space, or set TMPDIR."
        )
    with file:
        for rows in row_chunks(table, _CHUNK_ELEMENTS):
            file.write(_to_bytes(table.rows.read(rows.start, rows.stop)))  # type: ignore[union-attr]
        file.flush()
        pages = mmap.mmap(file.fileno(), table.nbytes)
    register_map(pages, _OWNER)
    stored = torch.frombuffer(pages, dtype=table.dtype).reshape(table.shape)
    return nn.Parameter(stored, requires_grad=table.requires_grad)


def _to_bytes(rows: Tensor) -> memoryview:
    return rows.contiguous().view(torch.uint8).reshape(-1).numpy().data
