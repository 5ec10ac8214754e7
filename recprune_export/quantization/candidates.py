"""What a graph has to quantise: linear layers and tables, and why others are left alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    find_nodes,
    find_only_consumer,
    find_producer,
    get_axis,
    get_constant_array,
    get_rank,
)
from recprune_export.onnx.optimizer.linear_layers import Linear, find_transposed_products, match_linear

MIN_TABLE_FRACTION = 0.01  # of the numbers of all tables: what a table that is smaller would save nobody would notice


@dataclass(frozen=True)
class Table:
    """A weight [rows, dimensions] that is looked up by ids of the request, by these nodes.

    `products`: layers of which W is its transpose, as where a history is scored against all items. A scale for each row
    is one for each of their outputs, so that the same integers serve both.
    """

    value: ir.Value
    lookups: tuple[ir.Node, ...]
    products: tuple[Linear, ...] = ()

    @property
    def name(self) -> str:
        """Name of the weight."""
        return self.value.name or ""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        rows, dimensions = (int(size) for size in self.value.shape)  # type: ignore[union-attr, arg-type]
        return rows, dimensions

    def array(self) -> np.ndarray:
        """The weight itself."""
        array = get_constant_array(self.value)
        assert array is not None
        return array


@dataclass(frozen=True)
class ExcludedWeight:
    """A layer [inputs, outputs] or table [rows, dimensions] that stays in fp32 whatever the user wishes."""

    name: str
    shape: tuple[int, int]
    is_table: bool
    reason: str


@dataclass(frozen=True)
class Candidates:
    """What can be quantised, by the names of the weights, and what cannot."""

    layers: Mapping[str, Linear]
    tables: Mapping[str, Table]
    excluded: tuple[ExcludedWeight, ...]


def find_candidates(model: ir.Model) -> Candidates:
    """Find linear layers and tables."""
    layers, tables, left = {}, {}, []
    found = list(_tables(model.graph))
    multiplied = {table.value for table in found if table.products}
    for layer in filter(None, map(match_linear, model.graph)):
        if layer.weight in multiplied:
            continue
        reason = _why_no_layer(layer)
        if reason:
            left.append(ExcludedWeight(layer.weight.name or "", (layer.inputs, layer.outputs), False, reason))
        else:
            layers[layer.weight.name or ""] = layer
    everything = sum(rows * dimensions for rows, dimensions in (table.shape for table in found))
    for table in found:
        reason = _why_no_table(table, everything)
        if reason:
            left.append(ExcludedWeight(table.name, table.shape, True, reason))
        else:
            tables[table.name] = table
    return Candidates(layers, tables, tuple({each.name: each for each in left}.values()))


def _tables(graph: ir.Graph) -> Iterator[Table]:
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in find_nodes(graph, "Gather"):
        weight, ids = node.inputs[0], node.inputs[1]
        if weight is None or ids is None or weight.const_value is None or ids.const_value is not None:
            continue
        if get_rank(weight) == 2 and weight.dtype == ir.DataType.FLOAT and get_axis(node, 2) == 0:
            found.setdefault(weight, []).append(node)
    return (Table(weight, tuple(lookups), tuple(find_transposed_products(weight))) for weight, lookups in found.items())


def _why_no_layer(layer: Linear) -> str:
    if not layer.owns_weight or layer.weight.is_graph_output():
        return "its weight is read in several places"
    if get_rank(layer.operand) is None:
        return "the shape of what it multiplies is not known"
    return "" if np.isfinite(layer.matrix()).all() else "it holds NaN or infinity"


def _why_no_table(table: Table, everything: int) -> str:
    if not _is_read_as_a_table(table):
        return "it is read in another way than looked up by row and multiplied by all rows"
    if any(get_rank(product.operand) is None for product in table.products):
        return "the shape of what it is multiplied by is not known"
    if table.shape[0] * table.shape[1] < MIN_TABLE_FRACTION * everything:
        return f"it holds less than {MIN_TABLE_FRACTION:.0%} of the numbers of all tables"
    return "" if np.isfinite(table.array()).all() else "it holds NaN or infinity"


def _is_read_as_a_table(table: Table) -> bool:
    """Whether lookups and products are all that reads it: for anything else the file would need a second copy."""
    products = {product.node for product in table.products}
    known = products | set(table.lookups)
    for user, place in table.value.uses():
        transposed = user.op_type == "Transpose" and bool(products)
        readers = {use.node for use in user.outputs[0].uses()} if transposed else {user}
        if not readers <= known or (transposed and user.outputs[0].is_graph_output()):
            return False
        if not transposed and place != (0 if user.op_type == "Gather" else 1):
            return False
    return not table.value.is_graph_output()


def find_fused_output(layer: Linear) -> ir.Value:
    """Return the value of y, or of the ReLU that ONNX Runtime computes together with it."""
    user = find_only_consumer(layer.result)
    return user.outputs[0] if user is not None and find_producer(user.outputs[0], "Relu") else layer.result
