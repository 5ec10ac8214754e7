"""New nodes of a rewrite, and the constants that they read."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer


class NewNodes:
    """New nodes, in their order, and the constants that they read, whose names begin with `name`."""

    def __init__(self, graph: ir.Graph, name: str) -> None:
        self._graph, self._name = graph, name
        self.nodes: list[ir.Node] = []

    def add(self, operator: str, *operands: ir.Value | None, **attributes: int | Sequence[int]) -> ir.Value:
        """Append a node with one output, and return that."""
        self.nodes.append(ir.node(operator, operands, attributes=attributes))
        return self.nodes[-1].outputs[0]

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
        """Append a Split, and return its outputs."""
        operands = [value, self.constant("sizes", sizes)]
        self.nodes.append(ir.node("Split", operands, attributes={"axis": axis}, num_outputs=len(sizes)))
        return self.nodes[-1].outputs

    def constant(self, suffix: str, numbers: object, dtype: type = np.int64) -> ir.Value:
        """Return a constant, whose name ends in `suffix`."""
        return add_initializer(self._graph, f"{self._name}_{suffix}", np.array(numbers, dtype=dtype))
