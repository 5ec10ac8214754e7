"""Selection of some elements of a matrix for each row, by one Gather of single elements."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, replace_node
from recprune_export.onnx.optimizer.element_selection import ElementSelection, match_element_selection


def gathernd_to_flat_gather(model: ir.Model) -> int:
    """Select elements of a matrix by a flat index.

    Before: `Transpose(GatherND(Transpose(x, [1, 2, 0]), pairs), [1, 0])` of x [batch, n, m] and constant pairs [k, 2], as
    the exporter writes `x[:, i, j]`. After: `Gather(Reshape(x, [-1, n·m]), i·m + j, axis=1)`. It saves two nodes, but
    copies element by element, 7 ns each, which is faster for a few rows only.

    Returns the number of changed selections.
    """
    selections = [
        selection for node in find_nodes(model.graph, "GatherND") if (selection := match_element_selection(node))
    ]
    for selection in selections:
        _flatten_selection(model.graph, selection)
    return len(selections)


def _flatten_selection(graph: ir.Graph, selection: ElementSelection) -> None:
    name = selection.result.outputs[0].name
    sizes = add_initializer(graph, f"{name}_flat", np.array([-1, selection.size]))
    positions = add_initializer(graph, f"{name}_positions", selection.positions)
    flat = ir.node("Reshape", [selection.source, sizes])
    selected = ir.node("Gather", [flat.outputs[0], positions], attributes={"axis": 1})
    replace_node(graph, selection.result, [flat, selected])
