"""Tables in fewer bits: rows are looked up as they are stored, and only what was found becomes float.

What ONNX Runtime 1.32 takes for 26 lookups in one table of 260,000 rows and 20 dimensions at batch 256, in µs: fp32 540, fp16
480, int8 with a scale for each dimension 490, with one for each row 950 (a second lookup, and a product with a new factor in
each row), int4 by row 980, int4 by GatherBlockQuantized 1670.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, get_dims, replace_node
from recprune_export.quantization.candidates import Table
from recprune_export.quantization.formats.arithmetic import (
    INT4_MAX,
    INT4_ZERO,
    INT8_MAX,
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
BLOCKS = (16, 32, 64, 128, 256)  # that GatherBlockQuantized knows


@dataclass(frozen=True)
class QuantizedTable:
    """What the file holds of a table: `rows` [rows, bytes of a row] and, where each has one, `scales` [rows, 1].

    `unpack` makes nodes that turn some of the rows into floats, to be multiplied by their scales; the last gives them.
    """

    rows: ir.Value
    scales: ir.Value | None
    unpack: Callable[[ir.Value], list[ir.Node]]

    def dequantize(self, rows: ir.Value, scales: ir.Value | None) -> list[ir.Node]:
        """Make nodes of which the last gives the numbers that some rows stand for."""
        new = self.unpack(rows)
        return new if scales is None else [*new, ir.node("Mul", [new[-1].outputs[0], scales])]


def store_fp16(graph: ir.Graph, table: Table) -> QuantizedTable:
    """Store fp16. Numbers are off by 2⁻¹¹ of their size."""
    return QuantizedTable(add_initializer(graph, f"{table.name}_fp16", table.array().astype(np.float16)), None, _cast)


def store_int8_by_row(graph: ir.Graph, table: Table, largest: int = INT8_MAX) -> QuantizedTable:
    """Store int8 with a scale for each row."""
    integers, scales = quantize_by_row(table.array(), largest)
    stored, steps = (
        add_initializer(graph, f"{table.name}_int8", integers),
        add_initializer(graph, f"{table.name}_scales", scales),
    )
    return QuantizedTable(stored, steps, _cast)


def store_int4_by_row(graph: ir.Graph, table: Table) -> QuantizedTable:
    """Store two numbers in a byte, with a scale for each row.

    `BitwiseAnd` and `BitShift` take the bytes apart, `Concat` puts both halves of a row side by side.
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
        both = ir.node("Concat", [low.outputs[0], high.outputs[0]], attributes={"axis": -1})
        new = [low, high, both, *_without_padding(graph, table, both)]
        cast = ir.node("Cast", new[-1].outputs, attributes=FLOAT)
        return [*new, cast, ir.node("Sub", [cast.outputs[0], zero])]

    return QuantizedTable(stored, steps, unpack)


def replace_lookups(graph: ir.Graph, table: Table, stored: QuantizedTable) -> None:
    """Let each lookup find rows as they are stored, and widen these alone.

    After: `Cast(Gather(T₁₆, ids))`, `Mul(Cast(Gather(T₈, ids)), Gather(scales, ids))`, or that with halves unpacked.
    """
    for lookup in table.lookups:
        found = _gather(stored.rows, lookup)
        factors = [] if stored.scales is None else [_gather(stored.scales, lookup)]
        scales = factors[0].outputs[0] if factors else None
        replace_node(graph, lookup, [found, *factors, *stored.dequantize(found.outputs[0], scales)])


def store_int8_by_dimension(graph: ir.Graph, table: Table) -> None:
    """Store int8 with a scale for each dimension. After: `Mul(Cast(Gather(T₈, ids)), scales)`.

    Where a request has several ids in a row the scales are repeated for each of them: one long product is quicker than
    many short ones.
    """
    integers, scales = quantize_by_dimension(table.array())
    stored = add_initializer(graph, f"{table.name}_int8", integers)
    for lookup in table.lookups:
        found = _gather(stored, lookup)
        cast = ir.node("Cast", found.outputs, attributes=FLOAT)
        repeated = np.broadcast_to(scales, (*_known(lookup), len(scales)))
        steps = add_initializer(graph, f"{table.name}_scales", np.ascontiguousarray(repeated))
        replace_node(graph, lookup, [found, cast, ir.node("Mul", [cast.outputs[0], steps])])


def store_int4_in_blocks(graph: ir.Graph, table: Table) -> None:
    """The same numbers for ONNX Runtime's own `GatherBlockQuantized`, a row in one block; at most 256 even dimensions."""
    integers, scales = quantize_by_row(table.array(), INT4_MAX)
    stored = add_initializer(graph, f"{table.name}_int4", pack_neighbors(integers))
    steps = add_initializer(graph, f"{table.name}_scales", scales)
    block = next(size for size in BLOCKS if size >= table.shape[1])
    attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    for lookup in table.lookups:
        inputs = [stored, lookup.inputs[1], steps]
        replace_node(graph, lookup, [ir.node("GatherBlockQuantized", inputs, attributes=attributes, domain=CONTRIB)])
    graph.opset_imports.setdefault(CONTRIB, 1)


# What serves lookups and products alike, and what only lookups can read.
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
    """Return the bytes of a table in fp32 and in a form, with its scales."""
    rows, dimensions = table.shape
    plain = 4 * rows * dimensions
    by_form = {
        FP16: plain // 2,
        INT8_BY_ROW: rows * (dimensions + 4),
        INT8_BY_DIMENSION: rows * dimensions
        + 4 * sum(dimensions * int(np.prod(_known(each))) for each in table.lookups),
        INT4_BY_ROW: rows * (-(-dimensions // 2) + 4),
        INT4_IN_BLOCKS: rows * (-(-dimensions // 2) + 4),
    }
    form = SCORED_TABLE_FORMS.get(form, (form, FP32))[0]
    return plain, by_form.get(form, plain)


def fits_fp16(table: Table) -> bool:
    """Whether fp16 can hold every number."""
    return bool(np.abs(table.array()).max(initial=0.0) <= np.finfo(np.float16).max)


def fits_blocks(table: Table) -> bool:
    """Whether `GatherBlockQuantized` can hold a row in one block."""
    return table.shape[1] % 2 == 0 and table.shape[1] <= BLOCKS[-1]


def error_by_dimension(table: Table) -> float:
    """Return by how much a scale for each dimension puts a table off, as a fraction of the numbers of a usual row.

    Both are root mean squares, of all rows and of the median row that is not zero.
    """
    array = table.array()
    integers, scales = quantize_by_dimension(array)
    wrong = np.square(integers * scales - array).mean(axis=1, dtype=np.float64)
    sizes = np.square(array).mean(axis=1, dtype=np.float64)
    usual = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
    return float(np.sqrt(wrong.mean() / usual)) if usual else 0.0


def _known(lookup: ir.Node) -> tuple[int, ...]:
    """The axes between batch and dimensions of what was found, where all are known; none otherwise."""
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


def _without_padding(graph: ir.Graph, table: Table, both: ir.Node) -> list[ir.Node]:
    """Cut off the nibble that made the number of dimensions even."""
    dimensions = table.shape[1]
    if dimensions % 2 == 0:
        return []
    bounds = {"from": 0, "to": dimensions, "axis": -1}
    inputs = [add_initializer(graph, f"{table.name}_{word}", np.array([number])) for word, number in bounds.items()]
    return [ir.node("Slice", [both.outputs[0], *inputs])]
