"""Selection of a position moved towards the inputs, so that other positions are not computed.

A sequence recommender answers from the last position of its history. Operators that treat positions independently before
the selection (norms, linear layers, the queries of the last attention) need not compute the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, find_upstream_nodes, get_rank

Axes = Sequence[int | None]  # for each operand, the axis on which one position is needed; None: all of it is read
Rule = Callable[[ir.Node, int], Axes | None]  # None: the operator needs every position

_POINTWISE = (
    "IsNaN IsInf Relu Gelu Sigmoid Tanh Erf Sqrt Neg Exp Abs Cast Not LeakyRelu Elu Identity Softplus HardSigmoid"
)
_BROADCASTING = "Add Sub Mul Div Pow Where And Or Equal Greater Less GreaterOrEqual LessOrEqual Min Max PRelu Mod"


@dataclass(frozen=True)
class _Use:
    """A use of a value as operand `position` of `node`."""

    node: ir.Node
    position: int


def hoist_gather(model: ir.Model) -> int:
    """Move the selection of one position towards the inputs, as far as possible.

    Before: `Gather(x, i, axis)` with one constant i, and x computed by operators that treat the positions of that axis independently.
    After: these operators compute only position i; a Slice selects it where all positions are needed. The selected values are the same.

    Time: in proportion to the nodes, and for each selection to those on which it depends. Returns the number of operators
    that compute less.
    """
    graph, moved, changed = model.graph, 0, True
    places: dict[ir.Node, int] = {}
    for node in find_nodes(graph, "Gather"):
        selection = _match_selection(node)
        if selection is None:
            continue
        if changed:
            places = {other: place for place, other in enumerate(graph)}
        upstream = sorted(find_upstream_nodes(node.inputs[:1]), key=places.__getitem__)
        shrunk = _SelectionMover(graph, node, *selection).apply(upstream)
        moved, changed = moved + shrunk, shrunk > 0
    return moved


def _match_selection(node: ir.Node) -> tuple[int, int] | None:
    """Return the axis and the non-negative position that a Gather selects, or None."""
    source, index = node.inputs[:2]
    if source is None or source.shape is None or index is None or index.const_value is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(source.shape)
    length = source.shape[axis]
    if axis == 0 or index.const_value.numpy().ndim or not isinstance(length, int) or length < 2:
        return None
    return axis, int(index.const_value.numpy()) % length


class _SelectionMover:
    """Moves one selection: first finds the values of which one position is needed, then rewrites their operators."""

    def __init__(self, graph: ir.Graph, selection: ir.Node, axis: int, position: int) -> None:
        self._graph, self._selection, self._axis, self._position = graph, selection, axis, position
        self._axis_of_use: dict[_Use, int] = {_Use(selection, 0): axis}  # operands of which one position is read
        self._axis_of: dict[ir.Value, int] = {}  # values that shrink to one position
        self._slices: dict[tuple[ir.Value, int], ir.Value] = {}

    def apply(self, upstream: Sequence[ir.Node]) -> int:
        """Rewrite the graph where that saves work; return the number of operators that compute less.

        `upstream`: the nodes on which the selected value depends, in the order of the graph.
        """
        for node in reversed(upstream):
            self._visit(node)
        if not self._axis_of:
            return 0
        for node in upstream:
            if node.outputs[0] in self._axis_of:
                self._shrink(node)
        zero = add_initializer(self._graph, f"{self._selection.outputs[0].name}_first", np.array(0))
        self._selection.replace_input_with(1, zero)
        return len(self._axis_of)

    def _visit(self, node: ir.Node) -> None:
        """Decide whether the output of `node` shrinks; all its consumers must have been visited."""
        value = node.outputs[0]
        uses = [_Use(user, position) for user, position in value.uses()]
        axes = {self._axis_of_use.get(use) for use in uses}
        if len(node.outputs) != 1 or len(axes) != 1 or value.is_graph_output():
            return
        (axis,) = axes
        rule = RULES.get(node.op_type)
        operands = rule(node, axis) if rule is not None and axis is not None and value.shape is not None else None
        if axis is None or operands is None or all(operand is None for operand in operands):
            return
        self._axis_of[value] = axis
        for position, operand in enumerate(operands):
            if operand is not None:
                self._axis_of_use[_Use(node, position)] = operand

    def _shrink(self, node: ir.Node) -> None:
        value = node.outputs[0]
        for position, operand in enumerate(node.inputs):
            axis = self._axis_of_use.get(_Use(node, position))
            if operand is not None and axis is not None and operand not in self._axis_of:
                node.replace_input_with(position, self._slice(operand, axis, node))
        assert value.shape is not None
        axis = self._axis_of[value]
        if node.op_type == "Reshape":
            assert node.inputs[1] is not None and node.inputs[1].const_value is not None
            sizes = node.inputs[1].const_value.numpy().copy()
            sizes[axis] = 1
            node.replace_input_with(1, add_initializer(self._graph, f"{value.name}_one", sizes))
        value.shape = ir.Shape([1 if number == axis else size for number, size in enumerate(value.shape)])

    def _slice(self, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        if (value, axis) not in self._slices:
            bounds = (self._position, self._position + 1, axis)
            names = ("start", "end", "axis")
            operands = [
                add_initializer(self._graph, f"{value.name}_{axis}_{name}", np.array([bound]))
                for name, bound in zip(names, bounds, strict=True)
            ]
            node = ir.node("Slice", [value, *operands])
            node.outputs[0].name = f"{value.name}_{axis}_picked"
            node.outputs[0].type = value.type
            assert value.shape is not None
            node.outputs[0].shape = ir.Shape([1 if n == axis else size for n, size in enumerate(value.shape)])
            self._graph.insert_before(before, [node])
            self._slices[value, axis] = node.outputs[0]
        return self._slices[value, axis]


def _pointwise(node: ir.Node, axis: int) -> Axes | None:
    return [axis]


def _clip(node: ir.Node, axis: int) -> Axes | None:
    return [axis, *(None for _ in node.inputs[1:])]


def _broadcasting(node: ir.Node, axis: int) -> Axes | None:
    """Return the axes of broadcast operands, aligned at their last axes; an axis of size 1 serves every position."""
    result_rank = get_rank(node.outputs[0])
    axes: list[int | None] = []
    for operand in node.inputs:
        rank = get_rank(operand)
        if operand is None or operand.shape is None or rank is None or result_rank is None:
            return None
        operand_axis = axis - (result_rank - rank)
        axes.append(operand_axis if operand_axis >= 0 and operand.shape[operand_axis] != 1 else None)
    return axes


def _last_axis_operator(node: ir.Node, axis: int) -> Axes | None:
    """Return the axes of norms and softmax over the last axis."""
    rank = get_rank(node.outputs[0])
    reduced_axis = node.attributes.get_int("axis", -1)
    if rank is None or reduced_axis % rank != rank - 1 or axis == rank - 1:
        return None
    return [axis, *(None for _ in node.inputs[1:])]


def _matmul(node: ir.Node, axis: int) -> Axes | None:
    """Return the axes of a product: its rows depend on rows of the left operand; a right matrix serves every batch."""
    left_rank, right_rank, rank = get_rank(node.inputs[0]), get_rank(node.inputs[1]), get_rank(node.outputs[0])
    if left_rank is None or left_rank != rank or axis == left_rank - 1:
        return None
    return [axis, None] if axis == left_rank - 2 or right_rank == 2 else None


def _transpose(node: ir.Node, axis: int) -> Axes | None:
    return [list(node.attributes.get_ints("perm"))[axis]] if "perm" in node.attributes else None


def _reshape(node: ir.Node, axis: int) -> Axes | None:
    """Return the axes of a Reshape that keeps the axis and all before it."""
    source, sizes, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if source is None or source.shape is None or sizes is None or sizes.const_value is None or result.shape is None:
        return None
    if list(source.shape[: axis + 1]) != list(result.shape[: axis + 1]):
        return None
    # A 0 copies the size of the operand, a -1 is the remaining size: neither may be the size of the axis or depend on it.
    return [axis, None] if sizes.const_value.numpy()[axis] > 0 else None


def _pad(node: ir.Node, axis: int) -> Axes | None:
    pads = node.inputs[1]
    rank = get_rank(node.outputs[0])
    if pads is None or pads.const_value is None or rank is None or len(node.inputs) > 3:
        return None
    amounts = pads.const_value.numpy().reshape(2, rank)
    return [axis, *(None for _ in node.inputs[1:])] if not amounts[:, axis].any() else None


def _slice(node: ir.Node, axis: int) -> Axes | None:
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    total = get_rank(node.outputs[0])
    if axes is None or axes.const_value is None or total is None:
        return None
    if axis in {int(a) % total for a in axes.const_value.numpy().reshape(-1)}:
        return None
    return [axis, *(None for _ in node.inputs[1:])]


def _gather(node: ir.Node, axis: int) -> Axes | None:
    """Return the axes of a lookup by row, which needs one id for one position."""
    id_rank = get_rank(node.inputs[1])
    by_row = node.attributes.get_int("axis", 0) == 0
    return [None, axis] if by_row and id_rank is not None and axis < id_rank else None


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), _pointwise),
    **dict.fromkeys(_BROADCASTING.split(), _broadcasting),
    "Clip": _clip,
    "LayerNormalization": _last_axis_operator,
    "Softmax": _last_axis_operator,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
}
