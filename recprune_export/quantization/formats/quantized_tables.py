"""Tables in fewer bits: rows are looked up as they are stored, and only what was found becomes float.

What ONNX Runtime 1.32 takes for 26 lookups in one table of 260,000 rows and 20 dimensions at batch 256, in µs: fp32 540, fp16
480, int8 with a scale for each dimension 490, with one for each row 950 (a second lookup, and a product with a new factor in
each row), int4 by row 980, int4 by GatherBlockQuantized 1670.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import constant, replace, sizes_of
from recprune_export.quantization.candidates import Table
from recprune_export.quantization.formats.arithmetic import (
    BYTE,
    NIBBLE,
    ZERO_NIBBLE,
    by_dimension,
    by_row,
    pack_halves,
    pack_neighbours,
)
from recprune_export.quantization.quantization_plan import (
    BY_DIMENSION,
    BY_ROW,
    CONTRIB,
    FOUR_BITS,
    FOUR_BITS_IN_BLOCKS,
    HALF,
    PLAIN,
    PRODUCTS,
)

FLOAT = {"to": ir.DataType.FLOAT.value}
AXIS = {"axis": 0}
BLOCKS = (16, 32, 64, 128, 256)  # that GatherBlockQuantized knows


@dataclass(frozen=True)
class Stored:
    """What the file holds of a table: `rows` [rows, bytes of a row] and, where each has one, `scales` [rows, 1].

    `unpack` makes nodes that turn some of the rows into floats, to be multiplied by their scales; the last gives them.
    """

    rows: ir.Value
    scales: ir.Value | None
    unpack: Callable[[ir.Value], list[ir.Node]]

    def widen(self, rows: ir.Value, scales: ir.Value | None) -> list[ir.Node]:
        """Make nodes of which the last gives the numbers that some rows stand for."""
        new = self.unpack(rows)
        return new if scales is None else [*new, ir.node("Mul", [new[-1].outputs[0], scales])]


def in_half(graph: ir.Graph, table: Table) -> Stored:
    """Store fp16. Numbers are off by 2⁻¹¹ of their size."""
    return Stored(constant(graph, f"{table.name}_fp16", table.array().astype(np.float16)), None, _cast)


def in_rows(graph: ir.Graph, table: Table, largest: int = BYTE) -> Stored:
    """Store int8 with a scale for each row."""
    integers, scales = by_row(table.array(), largest)
    stored, steps = constant(graph, f"{table.name}_int8", integers), constant(graph, f"{table.name}_scales", scales)
    return Stored(stored, steps, _cast)


def in_halves(graph: ir.Graph, table: Table) -> Stored:
    """Store two numbers in a byte, with a scale for each row.

    `BitwiseAnd` and `BitShift` take the bytes apart, `Concat` puts both halves of a row side by side.
    """
    integers, scales = by_row(table.array(), NIBBLE)
    stored = constant(graph, f"{table.name}_int4", pack_halves(integers))
    steps = constant(graph, f"{table.name}_scales", scales)
    low_bits = constant(graph, f"{table.name}_low", np.array(15, dtype=np.uint8))
    shift = constant(graph, f"{table.name}_high", np.array(4, dtype=np.uint8))
    zero = constant(graph, f"{table.name}_zero", np.array(ZERO_NIBBLE, dtype=np.float32))

    def unpack(rows: ir.Value) -> list[ir.Node]:
        low = ir.node("BitwiseAnd", [rows, low_bits])
        high = ir.node("BitShift", [rows, shift], attributes={"direction": "RIGHT"})
        both = ir.node("Concat", [low.outputs[0], high.outputs[0]], attributes={"axis": -1})
        new = [low, high, both, *_without_padding(graph, table, both)]
        cast = ir.node("Cast", new[-1].outputs, attributes=FLOAT)
        return [*new, cast, ir.node("Sub", [cast.outputs[0], zero])]

    return Stored(stored, steps, unpack)


def look_up(graph: ir.Graph, table: Table, stored: Stored) -> None:
    """Let each lookup find rows as they are stored, and widen these alone.

    After: `Cast(Gather(T₁₆, ids))`, `Mul(Cast(Gather(T₈, ids)), Gather(scales, ids))`, or that with halves unpacked.
    """
    for lookup in table.lookups:
        found = _gather(stored.rows, lookup)
        factors = [] if stored.scales is None else [_gather(stored.scales, lookup)]
        scales = factors[0].outputs[0] if factors else None
        replace(graph, lookup, [found, *factors, *stored.widen(found.outputs[0], scales)])


def make_by_dimension(graph: ir.Graph, table: Table) -> None:
    """Store int8 with a scale for each dimension. After: `Mul(Cast(Gather(T₈, ids)), scales)`.

    Where a request has several ids in a row the scales are repeated for each of them: one long product is quicker than
    many short ones.
    """
    integers, scales = by_dimension(table.array())
    stored = constant(graph, f"{table.name}_int8", integers)
    for lookup in table.lookups:
        found = _gather(stored, lookup)
        cast = ir.node("Cast", found.outputs, attributes=FLOAT)
        repeated = np.broadcast_to(scales, (*_known(lookup), len(scales)))
        steps = constant(graph, f"{table.name}_scales", np.ascontiguousarray(repeated))
        replace(graph, lookup, [found, cast, ir.node("Mul", [cast.outputs[0], steps])])


def make_four_bits_in_blocks(graph: ir.Graph, table: Table) -> None:
    """The same numbers for ONNX Runtime's own `GatherBlockQuantized`, a row in one block; at most 256 even dimensions."""
    integers, scales = by_row(table.array(), NIBBLE)
    stored = constant(graph, f"{table.name}_int4", pack_neighbours(integers))
    steps = constant(graph, f"{table.name}_scales", scales)
    block = next(size for size in BLOCKS if size >= table.shape[1])
    attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    for lookup in table.lookups:
        inputs = [stored, lookup.inputs[1], steps]
        replace(graph, lookup, [ir.node("GatherBlockQuantized", inputs, attributes=attributes, domain=CONTRIB)])
    graph.opset_imports.setdefault(CONTRIB, 1)


# What serves lookups and products alike, and what only lookups can read.
STORES: Mapping[str, Callable[[ir.Graph, Table], Stored]] = {HALF: in_half, BY_ROW: in_rows, FOUR_BITS: in_halves}
LOOKUPS: Mapping[str, Callable[[ir.Graph, Table], None]] = {
    BY_DIMENSION: make_by_dimension,
    FOUR_BITS_IN_BLOCKS: make_four_bits_in_blocks,
}


def bytes_of(table: Table, form: str) -> tuple[int, int]:
    """Return the bytes of a table in fp32 and in a form, with its scales."""
    rows, dimensions = table.shape
    plain = 4 * rows * dimensions
    by_form = {
        HALF: plain // 2,
        BY_ROW: rows * (dimensions + 4),
        BY_DIMENSION: rows * dimensions + 4 * sum(dimensions * int(np.prod(_known(each))) for each in table.lookups),
        FOUR_BITS: rows * (-(-dimensions // 2) + 4),
        FOUR_BITS_IN_BLOCKS: rows * (-(-dimensions // 2) + 4),
    }
    form = PRODUCTS.get(form, (form, PLAIN))[0]
    return plain, by_form.get(form, plain)


def fits_half(table: Table) -> bool:
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
    integers, scales = by_dimension(array)
    wrong = np.square(integers * scales - array).mean(axis=1, dtype=np.float64)
    sizes = np.square(array).mean(axis=1, dtype=np.float64)
    usual = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
    return float(np.sqrt(wrong.mean() / usual)) if usual else 0.0


def _known(lookup: ir.Node) -> tuple[int, ...]:
    """The axes between batch and dimensions of what was found, where all are known; none otherwise."""
    inner = (sizes_of(lookup.outputs[0]) or [])[1:-1]
    return tuple(int(size) for size in inner) if all(isinstance(size, int) for size in inner) else ()  # type: ignore[arg-type]


def _cast(rows: ir.Value) -> list[ir.Node]:
    return [ir.node("Cast", [rows], attributes=FLOAT)]


def _gather(stored: ir.Value, lookup: ir.Node) -> ir.Node:
    node = ir.node("Gather", [stored, lookup.inputs[1]], attributes=AXIS)
    shape = sizes_of(lookup.outputs[0])
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
    inputs = [constant(graph, f"{table.name}_{word}", np.array([number])) for word, number in bounds.items()]
    return [ir.node("Slice", [both.outputs[0], *inputs])]
