"""Planned bits of weights in a graph: they follow each weight through the rewrites, which merge, scale and rename weights."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import BITS, find_nodes, get_axis, get_bits, get_constant_array
from recprune_export.onnx.optimizer.linear_layers import match_linear
from recprune_export.stored_bits import LAYER_BITS, StoredBits, effective_bits


def plan_bits(model: ir.Model, bits: StoredBits, parameters: Mapping[str, np.ndarray]) -> None:
    """Write the bits of each weight into the graph of a program.

    A weight has the name of its parameter, or is the transpose of a parameter that is no longer in the graph. Tables get the effective
    bits for their dimensions (`effective_bits`).
    """
    named = dict(model.graph.initializers)
    for name, table_bits in bits.tables.items():
        value = named.get(name) or _find_copy(model.graph, parameters.get(name))
        if value is not None and value.shape is not None:
            rows, dimensions = (int(size) for size in value.shape)  # type: ignore[arg-type]
            value.meta[BITS] = effective_bits((rows, dimensions), table_bits, is_table=True)
    for name, layer_bits in bits.layers.items():
        value = named.get(name) or _find_copy(model.graph, parameters.get(name))
        if value is not None and BITS not in value.meta:
            value.meta[BITS] = layer_bits


def plan_other_layers(model: ir.Model, bits: int) -> None:
    """Write `bits` into the weights of linear layers that have none."""
    for layer in filter(None, map(match_linear, model.graph)):
        layer.weight.meta.setdefault(BITS, bits)


def _find_copy(graph: ir.Graph, parameter: np.ndarray | None) -> ir.Value | None:
    """Return the constant that is equal to a matrix or to its transpose."""
    if parameter is None or parameter.ndim != 2:
        return None
    for value in graph.initializers.values():
        shape = None if value.shape is None else tuple(value.shape)
        for matrix in (parameter, parameter.T):
            if shape == matrix.shape and np.array_equal(matrix, get_constant_array(value)):  # type: ignore[arg-type]
                return value
    return None


def collect_bits(model: ir.Model, planned: StoredBits) -> StoredBits:
    """Return the bits by the final names of the weights."""
    tables = {
        node.inputs[0].name: node.inputs[0]
        for node in find_nodes(model.graph, "Gather", "GatherND")
        if node.inputs[0] is not None and _is_table_of(node)
    }
    marked = {name: get_bits(value) for name, value in model.graph.initializers.items() if BITS in value.meta}
    layers = {name: bits for name, bits in marked.items() if name not in tables and bits in LAYER_BITS}
    return StoredBits({name: bits for name, bits in marked.items() if name in tables}, layers, planned.other_layers)


def _is_table_of(node: ir.Node) -> bool:
    table = node.inputs[0]
    assert table is not None
    if table.const_value is None or len(table.const_value.shape) != 2:
        return False
    return node.op_type == "GatherND" or get_axis(node, 2) == 0
