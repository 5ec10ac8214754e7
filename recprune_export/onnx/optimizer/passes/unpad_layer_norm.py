"""Layer norms of pruned streams without the zeros in place of the removed channels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_only_consumer,
    find_producer,
    get_axis,
    get_bits,
    get_constant_array,
    get_constant_integers,
    get_constant_scalar,
    get_dims,
    get_rank,
    replace_node,
)
from recprune_export.onnx.optimizer._rewrite import SelectivePass
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, replace_weights
from recprune_export.onnx.optimizer.optimizer_constants import MIN_FOLDED_BITS


@dataclass(frozen=True)
class _PaddedNorm:
    """`last` = Slice(LayerNormalization(Pad(x))): the norm over n channels of x, of which it has m; gain and shift [m]."""

    x: ir.Value
    last: ir.Node
    gain: np.ndarray
    shift: np.ndarray
    epsilon: float
    channels: int

    @property
    def remaining(self) -> int:
        """The channels of x."""
        return len(self.gain)


def _find(model: ir.Model) -> Sequence[str]:
    norms = map(_match, find_nodes(model.graph, "LayerNormalization"))
    return tuple(str(norm.last.outputs[0].name) for norm in norms if norm is not None)


def _unpad(model: ir.Model, places: Collection[str]) -> int:
    """Compute norms over n channels, of which all but m are zero, only from the m channels.

    Before: `Slice(LayerNormalization(Pad(x, n - m zeros), g, b), 0, m)`. After: `u = x·Q`, `d = u / sqrt(Σu²/n + ε)`, and
    the layer `d·Q·diag(g) + b`, folded into the linear layers that read the result, if nothing else does and their planned bits are at
    least 8; Q itself is not folded into weights with zeros, which it would fill.

    The variance of the n channels is Σx²/n - (Σx/n)² = xᵀ·(I - 1·1ᵀ/n)·x / n, and x minus the mean, without the removed
    channels, is (I - 1·1ᵀ/n)·x. Q = I - c·1·1ᵀ with c = (1 - sqrt(1 - m/n)) / m is the square root of that matrix, since
    (I - c·1·1ᵀ)² = I - (2·c - c²·m)·1·1ᵀ. So the variance is |Q·x|²/n, a sum of squares, which loses nothing to
    cancellation, and the norm is Q·(Q·x) divided by its root. Q and the summing matrix of ones are structure, not parameters: the file
    contains the operators that create them, and ONNX Runtime computes them once, when it loads the model. Time: O(m²) for each row,
    instead of a kernel on n channels between two copies.

    Returns the number of norms.
    """
    changed = 0
    for node in find_nodes(model.graph, "LayerNormalization"):
        norm = _match(node)
        if norm is not None and norm.last.outputs[0].name in places:
            _replace(model.graph, norm)
            changed += 1
    if changed:
        model.graph.sort()
        fill_shapes(model)
    return changed


unpad_layer_norm = SelectivePass("unpad_layer_norm", _find, _unpad)


def _match(node: ir.Node) -> _PaddedNorm | None:
    pad, last = find_producer(node.inputs[0], "Pad"), find_only_consumer(node.outputs[0])
    sizes = get_dims(pad.inputs[0]) if pad else None
    if pad is None or last is None or sizes is None or not isinstance(sizes[-1], int) or len(node.outputs) > 1:
        return None
    x, gain = pad.inputs[0], get_constant_array(node.inputs[1])
    shift = get_constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    rank, remaining = len(sizes), sizes[-1]
    if (
        gain is None
        or gain.ndim != 1
        or get_axis(node, rank, -1) != rank - 1
        or x is None
        or x.dtype != ir.DataType.FLOAT
    ):
        return None
    if not _appends_zeros(pad, rank, len(gain) - remaining) or not _takes_first(last, rank, remaining):
        return None
    if len(node.inputs) > 2 and shift is None:
        return None
    vector = np.zeros(len(gain)) if shift is None else shift.astype(np.float64)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return _PaddedNorm(x, last, gain[:remaining].astype(np.float64), vector[:remaining], epsilon, len(gain))


def _appends_zeros(pad: ir.Node, rank: int, count: int) -> bool:
    """Return whether a Pad appends `count` zeros, at least one, to the last axis and does nothing else."""
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    is_zero = value is None or get_constant_scalar(value) == 0.0
    is_plain = pad.attributes.get_string("mode", "constant") == "constant" and len(pad.inputs) < 4
    return is_zero and is_plain and count > 0 and get_constant_integers(pad.inputs[1]) == [0] * (2 * rank - 1) + [count]


def _takes_first(node: ir.Node, rank: int, count: int) -> bool:
    """Return whether a node is a Slice of the first `count` elements of the last axis."""
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    starts, ends, axes, *steps = (get_constant_integers(value) for value in node.inputs[1:])
    return starts == [0] and ends == [count] and axes in ([-1], [rank - 1]) and all(step == [1] for step in steps)


def _replace(graph: ir.Graph, norm: _PaddedNorm) -> None:
    """Write the norm with all its operators, then fold the last ones into the layers that read it."""
    name, m, n = norm.last.outputs[0].name, norm.remaining, norm.channels
    c = (1.0 - np.sqrt(1.0 - m / n)) / m

    def constant(part: str, values: float | np.ndarray) -> ir.Value:
        return add_initializer(graph, f"{name}_{part}", np.asarray(values, np.float32))

    one = ir.tensor(np.ones(1, np.float32))
    ones = ir.node(
        "ConstantOfShape", [add_initializer(graph, f"{name}_square", np.array([m, m]))], attributes={"value": one}
    )
    identity = ir.node("EyeLike", [ones.outputs[0]])
    scaled = ir.node("Mul", [identity.outputs[0], constant("scale", n**-0.5)])
    root = ir.node("Sub", [scaled.outputs[0], constant("mean", c * n**-0.5)])  # Q / √n
    centered = ir.node("MatMul", [norm.x, root.outputs[0]])  # of which the variance is the sum of squares
    squares = ir.node("Mul", [centered.outputs[0], centered.outputs[0]])
    variance = ir.node("MatMul", [squares.outputs[0], ones.outputs[0]])
    shifted = ir.node("Add", [variance.outputs[0], constant("epsilon", norm.epsilon)])
    deviation = ir.node("Sqrt", [shifted.outputs[0]])
    normed = ir.node("Div", [centered.outputs[0], deviation.outputs[0]])
    new = [ones, identity, scaled, root, centered, squares, variance, shifted, deviation, normed]
    readers = _find_readers(norm.last.outputs[0])
    matrix = np.sqrt(n) * (np.eye(m) - c)
    if readers and all(layer.matrix().all() for layer in readers):
        _fold_into(graph, readers, matrix * norm.gain, norm.shift)
        replace_node(graph, norm.last, new)
        return
    spread = ir.node("Mul", [root.outputs[0], constant("channels", n)])
    new += [spread, ir.node("MatMul", [normed.outputs[0], spread.outputs[0]])]
    if readers:
        _fold_into(graph, readers, np.diag(norm.gain), norm.shift)
    else:
        new.append(ir.node("Mul", [new[-1].outputs[0], constant("gain", norm.gain)]))
        if norm.shift.any():
            new.append(ir.node("Add", [new[-1].outputs[0], constant("shift", norm.shift)]))
    replace_node(graph, norm.last, new)


def _find_readers(value: ir.Value) -> list[Linear]:
    """Return the linear layers that read a value, or positions of it; none if other nodes read it, or if a layer has few bits."""
    readers: list[Linear] = []
    for user, place in value.uses():
        layer = match_linear(user)
        if layer is not None and place == 0 and layer.owns_weight and get_bits(layer.weight) >= MIN_FOLDED_BITS:
            readers.append(layer)
        elif (
            user.op_type == "Slice"
            and place == 0
            and _leaves_channels(user)
            and (more := _find_readers(user.outputs[0]))
        ):
            readers += more
        else:
            return []
    return [] if value.is_graph_output() else readers


def _leaves_channels(node: ir.Node) -> bool:
    """Return whether a Slice does not change the last axis."""
    rank, axes = get_rank(node.outputs[0]), get_constant_integers(node.inputs[3]) if len(node.inputs) > 3 else None
    return rank is not None and axes is not None and all(axis % rank != rank - 1 for axis in axes)


def _fold_into(graph: ir.Graph, readers: Sequence[Linear], matrix: np.ndarray, shift: np.ndarray) -> None:
    """Make layers read x instead of x·matrix + shift."""
    for layer in readers:
        before, moved = layer.vector(), shift @ layer.matrix()
        vector = before if not moved.any() else moved + (0.0 if before is None else before)
        replace_weights(graph, layer, matrix @ layer.matrix(), vector)
