"""Quantized tables: rows are looked up in their stored format, and only the rows of the request are dequantized.

Times of all forms are in docs/decisions/table-formats.md. A scale for each row costs a second lookup, and a product with
another factor in each row; a scale for each dimension is one long product.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, get_dims, replace_node
from recprune_export.onnx.mapped_tensors import split_rows
from recprune_export.quantization.candidates import Table
from recprune_export.quantization.formats.arithmetic import (
    INT4_MAX,
    compute_row_scales,
    convert_rows,
    narrow_scales,
    pack_neighbors,
    quantize_by_dimension,
    round_symmetric,
)
from recprune_export.quantization.formats.stored_rows import AXIS, FLOAT, StoredRows, cast, store_rows
from recprune_export.quantization.quantization_plan import (
    CONTRIB,
    FP16,
    FP32,
    INT2_BY_ROW,
    INT3_BY_ROW,
    INT4_BY_ROW,
    INT4_IN_BLOCKS,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    SCORED_TABLE_FORMS,
)
from recprune_export.stored_bits import count_row_bytes, count_scales

BLOCKS = (16, 32, 64, 128, 256)  # block sizes that GatherBlockQuantized supports
ROW_BITS: Mapping[str, int] = {INT8_BY_ROW: 8, INT4_BY_ROW: 4, INT3_BY_ROW: 3, INT2_BY_ROW: 2}


def store_fp16(graph: ir.Graph, table: Table) -> StoredRows:
    """Store a table in fp16, with a relative error of 2⁻¹¹."""
    array = table.array()
    halves = convert_rows(array, np.dtype(np.float16), array.shape[1], lambda rows: array[rows].astype(np.float16))
    return StoredRows(add_initializer(graph, f"{table.name}_fp16", halves), None, None, cast)


def replace_lookups(graph: ir.Graph, table: Table, stored: StoredRows) -> None:
    """Replace each lookup by one in the stored rows, and dequantize only the rows of the request.

    After: `Cast(Gather(T₁₆, ids))`, or `Mul(Cast(Gather(T₈, ids)), Gather(book, Cast(Gather(codes, ids))))`, with fewer
    bits the same with unpacked rows, see `stored_rows.py`.
    """
    for lookup in table.lookups:
        rows = _gather(stored.rows, lookup)
        codes, new = stored.codes, [rows]
        if codes is not None and codes.shape is not None and codes.shape[0] != 1:
            new.append(_gather(codes, lookup))
            codes = new[-1].outputs[0]
        replace_node(graph, lookup, [*new, *stored.dequantize(rows.outputs[0], codes)])


def store_int8_by_dimension(graph: ir.Graph, table: Table) -> None:
    """Store a table in int8 with a scale for each dimension. After: `Mul(Cast(Gather(T₈, ids)), scales)`.

    If a row of the request has several ids, the scales are repeated for each of them: one long product is faster than many short ones.
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
    """Store int4 for `GatherBlockQuantized` of ONNX Runtime, a row in one block; at most 256 dimensions, an even number.

    Scales are in fp16 where it can represent them; then the result is fp16 and is cast.
    """
    scales = _make_block_scales(table)
    integers = round_symmetric(table.array(), scales, INT4_MAX)
    stored = add_initializer(graph, f"{table.name}_int4", pack_neighbors(integers))
    steps = add_initializer(graph, f"{table.name}_scales", scales)
    block = next(size for size in BLOCKS if size >= table.shape[1])
    attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    for lookup in table.lookups:
        inputs = [stored, lookup.inputs[1], steps]
        found = ir.node("GatherBlockQuantized", inputs, attributes=attributes, domain=CONTRIB)
        found.outputs[0].type = steps.type
        replace_node(graph, lookup, [found] if scales.dtype == np.float32 else [found, *cast(found.outputs[0])])
    graph.opset_imports.setdefault(CONTRIB, 1)


def store_table(graph: ir.Graph, table: Table, form: str, bits: int | None = None) -> StoredRows:
    """Store a table in fp16 or by row, in the bits of the form unless `bits` is given."""
    if form == FP16:
        return store_fp16(graph, table)
    return store_rows(graph, table.name, table.array(), bits or ROW_BITS[form])


def _make_block_scales(table: Table) -> np.ndarray:
    return narrow_scales(compute_row_scales(table.array(), INT4_MAX))


# Forms that serve lookups only; those of `store_table` serve products as well.
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
        **{
            by_row: rows * count_row_bytes(dimensions, bits) + count_scales(rows, dimensions, bits)
            for by_row, bits in ROW_BITS.items()
        },
        INT8_BY_DIMENSION: rows * dimensions
        + 4 * sum(dimensions * int(np.prod(_get_inner_axes(lookup))) for lookup in table.lookups),
        INT4_IN_BLOCKS: rows * (-(-dimensions // 2) + _make_block_scales(table).itemsize),
    }
    form, product = SCORED_TABLE_FORMS.get(form, (form, FP32))
    if product != FP32 and form == INT8_BY_ROW:  # in 7 bits
        return float_bytes, rows * (dimensions + 1)
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
    """Return the sizes of the axes between batch and dimensions of a lookup's output; none if one is unknown."""
    inner = (get_dims(lookup.outputs[0]) or [])[1:-1]
    return tuple(int(size) for size in inner) if all(isinstance(size, int) for size in inner) else ()  # type: ignore[arg-type]


def _gather(stored: ir.Value, lookup: ir.Node) -> ir.Node:
    node = ir.node("Gather", [stored, lookup.inputs[1]], attributes=AXIS)
    shape = get_dims(lookup.outputs[0])
    assert stored.shape is not None
    if shape is not None:
        node.outputs[0].shape = ir.Shape([*shape[:-1], stored.shape[1]])
    node.outputs[0].type = stored.type
    return node
