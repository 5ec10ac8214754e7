"""Quantized tables: rows are looked up in their stored format, and only the rows of the request are dequantized.

Times of ONNX Runtime 1.32 for 26 lookups in one table of 260,000 rows and 20 dimensions at batch 256, in µs: fp32 540,
fp16 480, int8 with a scale per dimension 490, with a scale per row 950 (a second lookup, and a product with another
factor in each row), int4 by row 980, int4 by GatherBlockQuantized 1670.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, get_dims, replace_node
from recprune_export.onnx.mapped_tensors import split_rows
from recprune_export.quantization.candidates import Table
from recprune_export.quantization.formats.arithmetic import (
    INT4_MAX,
    INT4_ZERO,
    INT8_MAX,
    convert_rows,
    pack_halves,
    pack_neighbors,
    quantize_by_dimension,
    quantize_by_row,
)
from recprune_export.quantization.quantization_plan import (
    CONTRIB,
    FP16,
    FP32,
    INT4_BY_ROW,
    INT4_IN_BLOCKS,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    SCORED_TABLE_FORMS,
)

FLOAT = {"to": ir.DataType.FLOAT.value}
AXIS = {"axis": 0}
BLOCKS = (16, 32, 64, 128, 256)  # block sizes that GatherBlockQuantized supports


@dataclass(frozen=True)
class QuantizedTable:
    """The stored form of a table: `rows` [rows, bytes of a row] and, where each row has one, `scales` [rows, 1].

    `unpack` makes the nodes that convert some of the rows to floats, still without scales; the last one outputs them.
    """

    rows: ir.Value
    scales: ir.Value | None
    unpack: Callable[[ir.Value], list[ir.Node]]

    def dequantize(self, rows: ir.Value, scales: ir.Value | None) -> list[ir.Node]:
        """Return nodes of which the last outputs the dequantized `rows`."""
        new = self.unpack(rows)
        return new if scales is None else [*new, ir.node("Mul", [new[-1].outputs[0], scales])]


def store_fp16(graph: ir.Graph, table: Table) -> QuantizedTable:
    """Store a table in fp16, with a relative error of 2⁻¹¹."""
    array = table.array()
    halves = convert_rows(array, np.dtype(np.float16), array.shape[1], lambda rows: array[rows].astype(np.float16))
    return QuantizedTable(add_initializer(graph, f"{table.name}_fp16", halves), None, _cast)


def store_int8_by_row(graph: ir.Graph, table: Table, largest: int = INT8_MAX) -> QuantizedTable:
    """Store a table in int8 with a scale for each row."""
    integers, scales = quantize_by_row(table.array(), largest)
    stored, steps = (
        add_initializer(graph, f"{table.name}_int8", integers),
        add_initializer(graph, f"{table.name}_scales", scales),
    )
    return QuantizedTable(stored, steps, _cast)


def store_int4_by_row(graph: ir.Graph, table: Table) -> QuantizedTable:
    """Store a table in int4, two numbers in a byte, with a scale for each row.

    `BitwiseAnd` and `BitShift` unpack the bytes, `Concat` joins both halves of a row.
    """
    integers, scales = quantize_by_row(table.array(), INT4_MAX)
    stored = add_initializer(graph, f"{table.name}_int4", pack_halves(integers))
    steps = add_initializer(graph, f"{table.name}_scales", scales)
    low_bits = add_initializer(graph, f"{table.name}_low", np.array(15, dtype=np.uint8))
    shift = add_initializer(graph, f"{table.name}_high", np.array(4, dtype=np.uint8))
    zero = add_initializer(graph, f"{table.name}_zero", np.array(INT4_ZERO, dtype=np.float32))

    def unpack(rows: ir.Value) -> list[ir.Node]:
        low = ir.node("BitwiseAnd", [rows, low_bits])
        high = ir.node("BitShift", [rows, shift], attributes={"direction": "RIGHT"})
        joined = ir.node("Concat", [low.outputs[0], high.outputs[0]], attributes={"axis": -1})
        new = [low, high, joined, *_slice_padding(graph, table, joined)]
        cast = ir.node("Cast", new[-1].outputs, attributes=FLOAT)
        return [*new, cast, ir.node("Sub", [cast.outputs[0], zero])]

    return QuantizedTable(stored, steps, unpack)


def replace_lookups(graph: ir.Graph, table: Table, stored: QuantizedTable) -> None:
    """Replace each lookup by one in the stored rows, and dequantize the rows of the request alone.

    After: `Cast(Gather(T₁₆, ids))`, `Mul(Cast(Gather(T₈, ids)), Gather(scales, ids))`, or the latter with unpacked int4.
    """
    for lookup in table.lookups:
        rows = _gather(stored.rows, lookup)
        factors = [] if stored.scales is None else [_gather(stored.scales, lookup)]
        scales = factors[0].outputs[0] if factors else None
        replace_node(graph, lookup, [rows, *factors, *stored.dequantize(rows.outputs[0], scales)])


def store_int8_by_dimension(graph: ir.Graph, table: Table) -> None:
    """Store a table in int8 with a scale for each dimension. After: `Mul(Cast(Gather(T₈, ids)), scales)`.

    Where a row of the request has several ids, the scales are repeated for each of them: one long product is faster than
    many short ones.
    """
    integers, scales = quantize_by_dimension(table.array())
    stored = add_initializer(graph, f"{table.name}_int8", integers)
    for lookup in table.lookups:
        rows = _gather(stored, lookup)
        cast = ir.node("Cast", rows.outputs, attributes=FLOAT)
        repeated = np.broadcast_to(scales, (*_get_inner_axes(lookup), len(scales)))
        steps = add_initializer(graph, f"{table.name}_scales", np.ascontiguousarray(repeated))
        replace_node(graph, lookup, [rows, cast, ir.node("Mul", [cast.outputs[0], steps])])


def store_int4_in_blocks(graph: ir.Graph, table: Table) -> None:
    """Store int4 for `GatherBlockQuantized` of ONNX Runtime, a row in one block; at most 256 dimensions, an even number."""
    integers, scales = quantize_by_row(table.array(), INT4_MAX)
    stored = add_initializer(graph, f"{table.name}_int4", pack_neighbors(integers))
    steps = add_initializer(graph, f"{table.name}_scales", scales)
    block = next(size for size in BLOCKS if size >= table.shape[1])
    attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    for lookup in table.lookups:
        inputs = [stored, lookup.inputs[1], steps]
        replace_node(graph, lookup, [ir.node("GatherBlockQuantized", inputs, attributes=attributes, domain=CONTRIB)])
    graph.opset_imports.setdefault(CONTRIB, 1)


# STORES serve lookups and products, LOOKUPS serve lookups only.
STORES: Mapping[str, Callable[[ir.Graph, Table], QuantizedTable]] = {
    FP16: store_fp16,
    INT8_BY_ROW: store_int8_by_row,
    INT4_BY_ROW: store_int4_by_row,
}
LOOKUPS: Mapping[str, Callable[[ir.Graph, Table], None]] = {
    INT8_BY_DIMENSION: store_int8_by_dimension,
    INT4_IN_BLOCKS: store_int4_in_blocks,
}


def count_table_bytes(table: Table, form: str) -> tuple[int, int]:
    """Return the bytes of a table in fp32 and in `form` with its scales."""
    rows, dimensions = table.shape
    float_bytes = 4 * rows * dimensions
    by_form = {
        FP16: float_bytes // 2,
        INT8_BY_ROW: rows * (dimensions + 4),
        INT8_BY_DIMENSION: rows * dimensions
        + 4 * sum(dimensions * int(np.prod(_get_inner_axes(lookup))) for lookup in table.lookups),
        INT4_BY_ROW: rows * (-(-dimensions // 2) + 4),
        INT4_IN_BLOCKS: rows * (-(-dimensions // 2) + 4),
    }
    form = SCORED_TABLE_FORMS.get(form, (form, FP32))[0]
    return float_bytes, by_form.get(form, float_bytes)


def fits_fp16(table: Table) -> bool:
    """Return whether fp16 can represent every number."""
    array = table.array()
    return bool(max(array.max(initial=0.0), -array.min(initial=0.0)) <= np.finfo(np.float16).max)


def fits_blocks(table: Table) -> bool:
    """Return whether `GatherBlockQuantized` can store a row in one block."""
    return table.shape[1] % 2 == 0 and table.shape[1] <= BLOCKS[-1]


def error_by_dimension(table: Table) -> float:
    """Return the error of a table with a scale for each dimension, as a fraction of the numbers of a typical row.

    Both are root mean squares, the error over all rows, the numbers over the median row that is not zero. Memory: two
    numbers a row.
    """
    array = table.array()
    integers, scales = quantize_by_dimension(array)
    chunks = list(split_rows(len(array), array[:1].nbytes))
    errors = np.concatenate([_mean_squares(integers[rows] * scales - array[rows]) for rows in chunks])
    sizes = np.concatenate([_mean_squares(array[rows]) for rows in chunks])
    typical = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
    return float(np.sqrt(errors.mean() / typical)) if typical else 0.0


def _mean_squares(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(rows).mean(axis=1, dtype=np.float64))


def _get_inner_axes(lookup: ir.Node) -> tuple[int, ...]:
    """Return the sizes of the axes between batch and dimensions of a lookup's output; none where one is unknown."""
    inner = (get_dims(lookup.outputs[0]) or [])[1:-1]
    return tuple(int(size) for size in inner) if all(isinstance(size, int) for size in inner) else ()  # type: ignore[arg-type]


def _cast(rows: ir.Value) -> list[ir.Node]:
    return [ir.node("Cast", [rows], attributes=FLOAT)]


def _gather(stored: ir.Value, lookup: ir.Node) -> ir.Node:
    node = ir.node("Gather", [stored, lookup.inputs[1]], attributes=AXIS)
    shape = get_dims(lookup.outputs[0])
    assert stored.shape is not None
    if shape is not None:
        node.outputs[0].shape = ir.Shape([*shape[:-1], stored.shape[1]])
    node.outputs[0].type = stored.type
    return node


def _slice_padding(graph: ir.Graph, table: Table, joined: ir.Node) -> list[ir.Node]:
    """Return the nodes that remove the nibble padded to an even number of dimensions."""
    dimensions = table.shape[1]
    if dimensions % 2 == 0:
        return []
    bounds = {"from": 0, "to": dimensions, "axis": -1}
    inputs = [add_initializer(graph, f"{table.name}_{word}", np.array([number])) for word, number in bounds.items()]
    return [ir.node("Slice", [joined.outputs[0], *inputs])]
