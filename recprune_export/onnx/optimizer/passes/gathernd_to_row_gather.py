"""Selection of some elements of a matrix for each row, by a Gather of rows of the transposed matrix."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, replace_node
from recprune_export.onnx.optimizer.element_selection import ElementSelection, match_element_selection


def gathernd_to_row_gather(model: ir.Model) -> int:
    """Select elements of a matrix as rows of its transpose, by one index each.

    Before: `Transpose(GatherND(Transpose(x, [1, 2, 0]), pairs), [1, 0])` of x [batch, n, m] and constant pairs [k, 2], as
    the exporter writes `x[:, i, j]`. After: `Transpose(Gather(Transpose(Reshape(x, [-1, n·m]), [1, 0]), i·m + j), [1, 0])`.
    The same elements are copied, but GatherND computes an address from two indices for each of them, 6 ns more than
    Gather, which costs more than the Reshape from about 40 pairs on (docs/decisions/pairwise-products.md).

    Returns the number of changed selections.
    """
    selections = [
        selection for node in find_nodes(model.graph, "GatherND") if (selection := match_element_selection(node))
    ]
    for selection in selections:
        _gather_rows(model.graph, selection)
    return len(selections)


def _gather_rows(graph: ir.Graph, selection: ElementSelection) -> None:
    name, swap = selection.result.outputs[0].name, {"perm": [1, 0]}
    sizes = add_initializer(graph, f"{name}_flat", np.array([-1, selection.size]))
    positions = add_initializer(graph, f"{name}_positions", selection.positions)
    flat = ir.node("Reshape", [selection.source, sizes])
    columns = ir.node("Transpose", flat.outputs, attributes=swap)
    rows = ir.node("Gather", [columns.outputs[0], positions], attributes={"axis": 0})
    replace_node(graph, selection.result, [flat, columns, rows, ir.node("Transpose", rows.outputs, attributes=swap)])
