"""`StreamedTable`: a parameter whose numbers stay in files; operators that need only some rows read these rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from recprune_export.errors import ModelError
from recprune_export.memory_limit import COPIES, fits_in_memory
from recprune_export.number_formats import format_bytes
from recprune_export.program.streamed_tables.table_rows import TableRows

aten = torch.ops.aten

_SLICE_BYTES = 1 << 26  # up to this size, a slice of all rows counts as a chunk of rows


class StreamedTable(Tensor):
    """A tensor [rows, columns] without storage; `rows` reads its numbers. It cannot be changed.

    A lookup and a slice of rows give tensors in memory; other columns, another order of them and another precision give
    streamed tables. An operator that needs all rows reads them where they fit into memory (`fits_in_memory`).

    Raises `ModelError`, from any other operator, if the table does not fit.
    """

    rows: TableRows

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, rows: TableRows) -> "StreamedTable":
        table: StreamedTable = Tensor._make_wrapper_subclass(
            cls, rows.shape, dtype=rows.dtype, device=torch.device("cpu")
        )
        table.rows = rows
        return table

    def __init__(self, rows: TableRows) -> None:
        super().__init__()

    def __deepcopy__(self, memo: Any) -> "StreamedTable":
        return self  # it cannot be changed

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"StreamedTable('{self.rows.name}', {list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        mode = _find_fake_mode((args, kwargs))
        if mode is not None:
            with mode:
                fake = _replace((args, kwargs), lambda t: torch.empty(t.shape, dtype=t.dtype))
                return func(*fake[0], **fake[1])
        operator = _OPERATORS.get(func)
        result = NotImplemented if operator is None else operator(*args, **kwargs)
        if result is not NotImplemented:
            return result
        whole = _replace((args, kwargs), lambda table: read_whole(table, f"'{func}' needs all of its rows"))
        return func(*whole[0], **whole[1])


def find_streamed_tables(module: nn.Module) -> dict[str, StreamedTable]:
    """Return the streamed tables among the parameters of a module, by name."""
    return {name: p for name, p in module.named_parameters() if isinstance(p, StreamedTable)}


def read_whole(table: StreamedTable, reason: str) -> Tensor:
    """Return all numbers of a table. Raises `ModelError` with the `reason` for reading them where they do not fit into memory."""
    if not fits_in_memory(table.nbytes):
        raise ModelError(
            f"The table '{table.rows.name}' of {format_bytes(table.nbytes)} does not fit into memory: {COPIES} times its size "
            f"should be free, since {reason}. Use a machine with more memory, or raise the limit of `ulimit`."
        )
    return table.rows.read(0, len(table))


def _find_fake_mode(values: Any) -> FakeTensorMode | None:
    for mode in reversed(_get_current_dispatch_mode_stack()):
        if isinstance(mode, FakeTensorMode):
            return mode
    return next((leaf.fake_mode for leaf in pytree.tree_leaves(values) if isinstance(leaf, FakeTensor)), None)


def _replace(values: Any, change: Callable[[StreamedTable], Tensor]) -> Any:
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, StreamedTable) else leaf, values)


def _keep(table: StreamedTable, *_: Any, **__: Any) -> Any:
    return StreamedTable(table.rows)


def _look_up(table: Any, ids: Tensor, *_: Any, **__: Any) -> Any:
    """`embedding(table, ids)`; padding and gradients do not affect the values."""
    return _gather(table, ids)


def _gather(table: Any, ids: Any) -> Any:
    if not isinstance(table, StreamedTable) or not isinstance(ids, Tensor) or ids.dtype in (torch.bool, torch.uint8):
        return NotImplemented
    flat = ids.reshape(-1).long()
    if len(flat) and not (int(flat.min()) >= 0 and int(flat.max()) < len(table)):
        raise IndexError("index out of range in self")  # the message of torch
    return table.rows.gather(flat).reshape(*ids.shape, table.shape[1])


def _index(table: Any, indices: Sequence[Any]) -> Any:
    """`table[ids]`; ids may be counted from the end."""
    if len(indices) != 1 or not isinstance(indices[0], Tensor) or indices[0].dtype == torch.bool:
        return NotImplemented
    ids = indices[0]
    return _gather(table, torch.where(ids < 0, ids + len(table), ids))


def _index_select(table: Any, axis: int, indices: Tensor) -> Any:
    if not isinstance(table, StreamedTable):
        return NotImplemented
    return _gather(table, indices) if axis % 2 == 0 else StreamedTable(table.rows.select_columns(indices))


def _slice(table: Any, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    positions = range(table.shape[axis])[slice(start, end, step)]
    if axis % 2 == 1:
        return StreamedTable(table.rows.select_columns(torch.tensor(list(positions), dtype=torch.int64)))
    if len(positions) == len(table) and table.nbytes > _SLICE_BYTES:
        return StreamedTable(table.rows)
    if step != 1:
        return NotImplemented
    return table.rows.read(positions.start, positions.stop)


def _select(table: Any, axis: int, index: int) -> Any:
    if axis % 2 == 1:
        return NotImplemented
    row = range(len(table))[index]
    return table.rows.read(row, row + 1)[0]


def _to_copy(table: Any, *, dtype: torch.dtype | None = None, device: Any = None, **_: Any) -> Any:
    if device is not None and torch.device(device).type != "cpu":
        return NotImplemented
    return StreamedTable(table.rows.to_dtype(dtype or table.dtype))


def _equal(one: Any, other: Any) -> Any:
    step = max(1, (1 << 20) // max(1, one.shape[-1]))
    return one.shape == other.shape and all(
        torch.equal(_read(one, start, start + step), _read(other, start, start + step))
        for start in range(0, len(one), step)
    )


def _read(table: Tensor, start: int, stop: int) -> Tensor:
    stop = min(stop, len(table))
    return table.rows.read(start, stop) if isinstance(table, StreamedTable) else table[start:stop]


LOOKUPS = frozenset({aten.embedding.default, aten.index.Tensor})  # operators that may read a table in a captured graph
_OPERATORS: Mapping[Any, Callable[..., Any]] = {
    aten.detach.default: _keep,
    aten.alias.default: _keep,
    aten.clone.default: _keep,
    aten.embedding.default: _look_up,
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten._to_copy.default: _to_copy,
    aten.equal.default: _equal,
}
