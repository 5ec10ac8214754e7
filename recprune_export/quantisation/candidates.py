"""What a graph has to quantise: linear layers and tables, and why others are left alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import array_of, axis_of, maker, nodes_of, only_user, rank
from recprune_export.onnx.layers import Linear, linear_of
from recprune_export.onnx.lookups import only_looked_up

SMALLEST = 0.01  # of the numbers of all tables: what a table that is smaller would save nobody would notice


@dataclass(frozen=True)
class Table:
    """A weight [rows, dimensions] that is looked up by ids of the request, by these nodes, and read in no other way."""

    value: ir.Value
    lookups: tuple[ir.Node, ...]

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
        array = array_of(self.value)
        assert array is not None
        return array


@dataclass(frozen=True)
class Left:
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
    left: tuple[Left, ...]


def candidates_of(model: ir.Model) -> Candidates:
    """Find linear layers and tables."""
    layers, tables, left = {}, {}, []
    for layer in filter(None, map(linear_of, model.graph)):
        reason = _why_no_layer(layer)
        if reason:
            left.append(Left(layer.weight.name or "", (layer.inputs, layer.outputs), False, reason))
        else:
            layers[layer.weight.name or ""] = layer
    found = list(_tables(model.graph))
    everything = sum(rows * dimensions for rows, dimensions in (table.shape for table in found))
    for table in found:
        reason = _why_no_table(table, everything)
        if reason:
            left.append(Left(table.name, table.shape, True, reason))
        else:
            tables[table.name] = table
    return Candidates(layers, tables, tuple({each.name: each for each in left}.values()))


def _tables(graph: ir.Graph) -> Iterator[Table]:
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in nodes_of(graph, "Gather"):
        weight, ids = node.inputs[0], node.inputs[1]
        if weight is None or ids is None or weight.const_value is None or ids.const_value is not None:
            continue
        if rank(weight) == 2 and weight.dtype == ir.DataType.FLOAT and axis_of(node, 2) == 0:
            found.setdefault(weight, []).append(node)
    return (Table(weight, tuple(lookups)) for weight, lookups in found.items())


def _why_no_layer(layer: Linear) -> str:
    if not layer.owns_weight or layer.weight.is_graph_output():
        return "its weight is read in several places"
    if rank(layer.operand) is None:
        return "the shape of what it multiplies is not known"
    return "" if np.isfinite(layer.matrix()).all() else "it holds NaN or infinity"


def _why_no_table(table: Table, everything: int) -> str:
    if not only_looked_up(table.value):
        return "it is multiplied as well as looked up"
    if table.shape[0] * table.shape[1] < SMALLEST * everything:
        return f"it holds less than {SMALLEST:.0%} of the numbers of all tables"
    return "" if np.isfinite(table.array()).all() else "it holds NaN or infinity"


def end_of(layer: Linear) -> ir.Value:
    """Return the value of y, or of the ReLU that ONNX Runtime computes together with it."""
    user = only_user(layer.result)
    return user.outputs[0] if user is not None and maker(user.outputs[0], "Relu") else layer.result
