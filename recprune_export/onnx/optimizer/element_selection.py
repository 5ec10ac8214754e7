"""The selection of some elements of a matrix for each row, such as the products of all pairs of fields."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import find_only_consumer, find_producer, get_constant_array, get_dims


@dataclass(frozen=True)
class ElementSelection:
    """The elements at `positions` [k] of `source` [batch, n, m] with its last two axes as one, of `size` n·m.

    `result` is the node that outputs them, [batch, k].
    """

    source: ir.Value
    size: int
    positions: np.ndarray
    result: ir.Node


def match_element_selection(node: ir.Node) -> ElementSelection | None:
    """Match the GatherND of `Transpose(GatherND(Transpose(x, [1, 2, 0]), pairs), [1, 0])`; None for others.

    x is [batch, n, m] and pairs a constant, [k, 2]: the exporter writes `x[:, i, j]` so.
    """
    first, last = find_producer(node.inputs[0], "Transpose"), find_only_consumer(node.outputs[0])
    pairs, source = get_constant_array(node.inputs[1]), first.inputs[0] if first else None
    shape = get_dims(source)
    if first is None or source is None or last is None or last.op_type != "Transpose" or pairs is None or shape is None:
        return None
    orders = [list(transpose.attributes.get_ints("perm", [])) for transpose in (first, last)]
    if (
        orders != [[1, 2, 0], [1, 0]]
        or pairs.ndim != 2
        or pairs.shape[1] != 2
        or node.attributes.get_int("batch_dims", 0)
    ):
        return None
    rows, columns = shape[1:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        return None
    i, j = (pairs % (rows, columns)).T  # negative positions count from the end
    return ElementSelection(source, rows * columns, i * columns + j, last)
