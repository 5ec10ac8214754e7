"""Tables that are multiplied as well as looked up: one copy in the file serves both.

The scale of a row is the scale of an output of the product. ONNX Runtime computes the constants of the product once,
when it loads the file: the transpose and, for a product of floats, the dequantized rows. A product of floats thus takes
the time of fp32 and more memory, and only the file is smaller; a product of integers takes less time and memory.
DequantizeLinear instead of `Cast` and `Mul` is computed at each request, not at load.

Times of ONNX Runtime 1.32 for a product with 12,069 rows of 64 dimensions at batch 1 / 32 / 256 (one thread, AVX-512
with VNNI), in µs: fp32 240 / 720 / 4450, dequantized at load 235 / 730 / 4480, DequantizeLinear 220 / 920 / 4600, dynamic
130 / 400 / 2020, static 140 / 410 / 2030. `MatMulNBits` takes 70 / 675 / 4850 where it may round the operand, which gives
other answers on CPUs without such a kernel, and 895 / 1580 / 5300 where it may not.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer
from recprune_export.onnx.optimizer.linear_layers import Linear
from recprune_export.quantization.candidates import Table
from recprune_export.quantization.formats import quantized_tables
from recprune_export.quantization.formats.int8_layers import ActivationQuantizer, replace_dynamic, replace_product
from recprune_export.quantization.formats.stored_rows import StoredRows
from recprune_export.quantization.quantization_plan import (
    FP32,
    INT8_BY_ROW,
    INT8_DYNAMIC,
    INT8_STATIC,
    SCORED_TABLE_FORMS,
)


def quantize_scored_table(graph: ir.Graph, table: Table, form: str, activations: ActivationQuantizer) -> None:
    """Store a table in `form`, and make its lookups and products read the stored rows.

    Before: `Gather(E, ids)`, `Gemm(x, E, b, transB=1)` or `MatMul(x, Transpose(E))` with perhaps `Add(·, b)`. After:
    see `replace_lookups` and the functions below. Integers that are multiplied have 7 bits, see `store_columns`.
    """
    store, product = SCORED_TABLE_FORMS.get(form, (form, FP32))
    in_7_bits = store == INT8_BY_ROW and product != FP32
    stored = quantized_tables.store_table(graph, table, store, 7 if in_7_bits else None)
    quantized_tables.replace_lookups(graph, table, stored)
    for layer in table.products:
        FORMS[product](graph, layer, stored, activations)


def multiply_floats(graph: ir.Graph, layer: Linear, stored: StoredRows, activations: ActivationQuantizer) -> None:
    """Replace the product by `MatMul(x, Transpose(Mul(Cast(T), scales)))` plus the bias."""
    new = stored.dequantize(stored.rows, stored.codes)
    new.append(_transpose(new[-1].outputs[0]))
    replace_product(graph, layer, new, layer.operand, new[-1].outputs[0])


def multiply_static(graph: ir.Graph, layer: Linear, stored: StoredRows, activations: ActivationQuantizer) -> None:
    """Replace the product by `MatMul(x′, DequantizeLinear(Transpose(T₈), scales))`, as `use_contrib_kernels` reads it."""
    new, weight, scales = _make_integer_weight(graph, layer, stored)
    operand, _ = activations.quantize_dequantize(graph, layer.node, layer.operand)
    dequantized = ir.node("DequantizeLinear", [weight, scales], attributes={"axis": 1})
    replace_product(graph, layer, [*new, dequantized], operand, dequantized.outputs[0])


def multiply_dynamic(graph: ir.Graph, layer: Linear, stored: StoredRows, activations: ActivationQuantizer) -> None:
    """Replace the product by a dynamic one with `Transpose(T₈)`, see `quantize_dynamic`."""
    new, weight, scales = _make_integer_weight(graph, layer, stored)
    replace_dynamic(graph, layer, new, weight, scales)


FORMS: Mapping[str, Callable[[ir.Graph, Linear, StoredRows, ActivationQuantizer], None]] = {
    FP32: multiply_floats,
    INT8_STATIC: multiply_static,
    INT8_DYNAMIC: multiply_dynamic,
}


def _make_integer_weight(
    graph: ir.Graph, layer: Linear, stored: StoredRows
) -> tuple[list[ir.Node], ir.Value, ir.Value]:
    """Return nodes and the values that they compute from all rows: int8 [dimensions, rows], and scales [rows]."""
    assert stored.codes is not None
    new: list[ir.Node] = []
    rows = stored.rows
    if rows.dtype != ir.DataType.INT8:
        new = stored.unpack(rows)
        new.append(ir.node("Cast", [new[-1].outputs[0]], attributes={"to": ir.DataType.INT8.value}))
        rows = new[-1].outputs[0]
    flat = add_initializer(graph, f"{layer.weight.name}_flat", np.array([-1]))
    found = stored.look_up_scales(stored.codes)
    transposed, scales = _transpose(rows), ir.node("Reshape", [found[-1].outputs[0], flat])
    return [*new, transposed, *found, scales], transposed.outputs[0], scales.outputs[0]


def _transpose(rows: ir.Value) -> ir.Node:
    return ir.node("Transpose", [rows], attributes={"perm": [1, 0]})
