"""Candidates for quantization in a graph: linear layers and tables, and the reasons that exclude others."""

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
from recprune_export.quantization.quantization_constants import MIN_TABLE_FRACTION


@dataclass(frozen=True)
class Table:
    """A weight [rows, dimensions] and the `lookups`, nodes that read it by ids of the request.

    `products`: layers whose W is its transpose, as in scoring a history against all items. A scale per row is also a scale per output of
    these layers, so that both read the same integers.
    """

    value: ir.Value
    lookups: tuple[ir.Node, ...]
    products: tuple[Linear, ...] = ()

    @property
    def name(self) -> str:
        """The name of the weight."""
        return self.value.name or ""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and dimensions."""
        rows, dimensions = (int(size) for size in self.value.shape)  # type: ignore[union-attr, arg-type]
        return rows, dimensions

    def array(self) -> np.ndarray:
        """Return the weight, [rows, dimensions]."""
        array = get_constant_array(self.value)
        assert array is not None
        return array


@dataclass(frozen=True)
class ExcludedWeight:
    """A layer [inputs, outputs] or table [rows, dimensions] that stays in fp32 in every mode."""

    name: str
    shape: tuple[int, int]
    is_table: bool
    reason: str


@dataclass(frozen=True)
class Candidates:
    """Layers and tables that can be quantized, by the names of their weights, and those that cannot."""

    layers: Mapping[str, Linear]
    tables: Mapping[str, Table]
    excluded: tuple[ExcludedWeight, ...]


def find_candidates(model: ir.Model, *, min_fraction: float = MIN_TABLE_FRACTION) -> Candidates:
    """Find the linear layers and tables of a graph; tables with less than `min_fraction` of all numbers are excluded."""
    layers, tables, excluded = {}, {}, []
    lookup_tables = list(_find_tables(model.graph))
    multiplied = {table.value for table in lookup_tables if table.products}
    for layer in filter(None, map(match_linear, model.graph)):
        if layer.weight in multiplied:
            continue
        reason = _layer_exclusion_reason(layer)
        if reason:
            excluded.append(ExcludedWeight(layer.weight.name or "", (layer.inputs, layer.outputs), False, reason))
        else:
            layers[layer.weight.name or ""] = layer
    total_size = sum(rows * dimensions for rows, dimensions in (table.shape for table in lookup_tables))
    for table in lookup_tables:
        reason = _table_exclusion_reason(table, min_fraction * total_size)
        if reason:
            excluded.append(ExcludedWeight(table.name, table.shape, True, reason))
        else:
            tables[table.name] = table
    return Candidates(layers, tables, tuple({weight.name: weight for weight in excluded}.values()))


def _find_tables(graph: ir.Graph) -> Iterator[Table]:
    lookups_by_weight: dict[ir.Value, list[ir.Node]] = {}
    for node in find_nodes(graph, "Gather"):
        weight, ids = node.inputs[0], node.inputs[1]
        if weight is None or ids is None or weight.const_value is None or ids.const_value is not None:
            continue
        if get_rank(weight) == 2 and weight.dtype == ir.DataType.FLOAT and get_axis(node, 2) == 0:
            lookups_by_weight.setdefault(weight, []).append(node)
    return (
        Table(weight, tuple(lookups), tuple(find_transposed_products(weight)))
        for weight, lookups in lookups_by_weight.items()
    )


def _layer_exclusion_reason(layer: Linear) -> str:
    if not layer.owns_weight or layer.weight.is_graph_output():
        return "its weight is read in several places"
    if get_rank(layer.operand) is None:
        return "the shape of its operand is not known"
    return "" if np.isfinite(layer.matrix()).all() else "it holds NaN or infinity"


def _table_exclusion_reason(table: Table, min_size: float) -> str:
    if not _has_only_table_readers(table):
        return "it is read by other operators than row lookups and products with all rows"
    if any(get_rank(product.operand) is None for product in table.products):
        return "the shape of the operand of its product is not known"
    if table.shape[0] * table.shape[1] < min_size:
        return f"it holds less than {MIN_TABLE_FRACTION:.0%} of the numbers of all tables"
    return "" if np.isfinite(table.array()).all() else "it holds NaN or infinity"


def _has_only_table_readers(table: Table) -> bool:
    """Return whether only lookups and products read the table: another reader would need a second copy in the file."""
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
    """Return the output of the layer, or that of the ReLU that ONNX Runtime fuses with it."""
    user = find_only_consumer(layer.result)
    return user.outputs[0] if user is not None and find_producer(user.outputs[0], "Relu") else layer.result
