"""Attention whose heads read the same keys and values, so that no transpose is needed."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    add_initializer,
    copy_bits,
    find_nodes,
    find_only_consumer,
    find_producer,
    get_bits,
    get_constant_scalar,
    get_dims,
    replace_node,
)
from recprune_export.onnx.optimizer._rewrite import SelectivePass
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear
from recprune_export.onnx.optimizer.optimizer_constants import MIN_FOLDED_BITS

_QUERIES, _KEYS = (0, 2, 1, 3), (0, 2, 3, 1)  # [B, L, H, d] as [B, H, L, d] and as [B, H, d, L]
_BETWEEN = ("Add", "Where", "Mul", "Div")  # operators between scores and softmax
_MASKED = -1e4  # scores that a mask sets are at most this


@dataclass(frozen=True)
class _Projection:
    """A linear layer whose H·d outputs are read as H heads of d numbers, times `scale`."""

    layer: Linear
    heads: int
    scale: float

    def by_head(self) -> np.ndarray:
        """Return the scaled weights, [inputs, H, d]."""
        return self.scale * self.layer.matrix().reshape(self.layer.inputs, self.heads, -1)

    def bias_by_head(self) -> np.ndarray:
        """Return the scaled bias, [H, d]; 0 where the layer has none."""
        bias = self.layer.vector()
        width = self.layer.outputs // self.heads
        return np.zeros((self.heads, width)) if bias is None else self.scale * bias.reshape(self.heads, width)


@dataclass(frozen=True)
class _Attention:
    """Attention from the scores to the layer after the heads.

    `scores` is the product of queries and keys, `chain` the operators from there to the weights of the positions, in
    order, and `mixed` the product of weights and values.
    """

    query: _Projection
    key: _Projection
    value: _Projection
    scores: ir.Node
    chain: tuple[ir.Node, ...]
    mixed: ir.Node
    output: Linear


@dataclass(frozen=True)
class _Shared:
    """A value [B, L, width] that all heads read: a head's numbers are `weights` [width, H, d] times it, plus `bias` [H, d]."""

    value: ir.Value
    weights: np.ndarray
    bias: np.ndarray

    @property
    def width(self) -> int:
        """The numbers of a position."""
        return len(self.weights)


def _find(model: ir.Model) -> Sequence[str]:
    return tuple(str(attention.scores.outputs[0].name) for attention in _find_attentions(model.graph))


def _fold(model: ir.Model, places: Collection[str]) -> int:
    """Make all heads of an attention read the same keys and the same values, with the queries in one product.

    A head is `softmax((x·Wq + bq)·(y·Wk + bk)ᵀ·s + mask)·(z·Wv + bv)`, and the layer Wo, bo on all heads
    together; x [B, M, ·], y and z [B, L, ·], mask the same for all heads. Before: `MatMul(Softmax(MatMul(q, kᵀ) + mask), v)`
    with q, k and v transposed to [B, H, ·, d]. After: `Softmax(MatMul(x·A + c, yᵀ) + mask)`, a row for each query and head,
    times z, and the layer `Wv·Wo`, `bv·Wo + bo`, with A = s·Wq·Wkᵀ and c = s·bq·Wkᵀ.

    Terms that are the same for all keys of a query do not change a softmax, and the weights of its positions have the sum
    1, so this is exact. Only y is transposed, which ONNX Runtime fuses into the product. If heads are so narrow that A and Wv·Wo would
    have more parameters than before, they read the keys and values of all heads instead, and A has zeros for the other heads. A product
    of two weights has the smaller of their planned bits; weights with less than 8 are not changed.

    Returns the number of attentions.
    """
    attentions = [a for a in _find_attentions(model.graph) if a.scores.outputs[0].name in places]
    for attention in attentions:
        _replace(model.graph, attention)
    if attentions:
        model.graph.sort()
        fill_shapes(model)
    return len(attentions)


fold_attention_projections = SelectivePass("fold_attention_projections", _find, _fold)


def _find_attentions(graph: ir.Graph) -> Iterator[_Attention]:
    for softmax in find_nodes(graph, "Softmax"):
        attention = _match(softmax)
        if attention is not None:
            yield attention


def _match(softmax: ir.Node) -> _Attention | None:
    chain = _match_chain(softmax)
    mixed = find_only_consumer(softmax.outputs[0])
    if chain is None or mixed is None or mixed.op_type != "MatMul" or mixed.inputs[0] is not softmax.outputs[0]:
        return None
    scores, output = find_producer(chain[0].inputs[_path(chain[0])], "MatMul"), _match_output(mixed)
    if scores is None or output is None:
        return None
    query, key = _match_projection(scores.inputs[0], _QUERIES), _match_projection(scores.inputs[1], _KEYS)
    value = _match_projection(mixed.inputs[1], _QUERIES)
    if query is None or key is None or value is None or not query.heads == key.heads == value.heads:
        return None
    if output.inputs != value.layer.outputs or get_dims(key.layer.operand) is None:
        return None
    layers = [query.layer, key.layer, value.layer]
    if not all(_has_static_sequence(layer.operand) for layer in layers):
        return None
    if any(get_bits(layer.weight) < MIN_FOLDED_BITS for layer in (*layers, output)):
        return None
    return _Attention(query, key, value, scores, chain, mixed, output)


def _has_static_sequence(value: ir.Value) -> bool:
    sizes = get_dims(value)
    return sizes is not None and len(sizes) == 3 and all(isinstance(size, int) for size in sizes[1:])


def _path(node: ir.Node) -> int:
    """Return the position of the operand with the scores, in an operator between scores and weights."""
    if node.op_type == "Where":
        return 1
    products = [place for place, value in enumerate(node.inputs) if find_producer(value, "MatMul")]
    by_head = [place for place, value in enumerate(node.inputs) if not _has_no_heads(value)]
    return next(iter([*products, *by_head]), 0)


def _match_chain(softmax: ir.Node) -> tuple[ir.Node, ...] | None:
    """Return the operators from the scores to the softmax, in order, or None if one may depend on the head."""
    sizes = get_dims(softmax.outputs[0])
    if sizes is None or len(sizes) != 4 or softmax.attributes.get_int("axis", -1) % 4 != 3:
        return None
    chain = [softmax]
    while (node := find_producer(chain[-1].inputs[_path(chain[-1])], *_BETWEEN)) is not None:
        if not _is_alike_for_heads(node) or find_only_consumer(node.outputs[0]) is not chain[-1]:
            return None
        chain.append(node)
    scores = chain[-1].inputs[_path(chain[-1])]
    is_alone = scores is not None and find_only_consumer(scores) is chain[-1]
    return tuple(reversed(chain)) if is_alone else None


def _is_alike_for_heads(node: ir.Node) -> bool:
    """Return whether an operator does the same for all heads, and adding a constant to all keys does not change the weights."""
    path = _path(node)
    others = [value for place, value in enumerate(node.inputs) if place != path]
    if node.op_type in ("Mul", "Div"):
        return path == 0 and all(get_constant_scalar(value) is not None for value in others)
    if node.op_type == "Where" and (low := get_constant_scalar(node.inputs[2])) is not None and low > _MASKED:
        return False
    if node.op_type == "Where" and get_constant_scalar(node.inputs[2]) is None:
        return False
    return all(_has_no_heads(value) for value in others)


def _has_no_heads(value: ir.Value | None) -> bool:
    sizes = get_dims(value)
    return sizes is not None and (len(sizes) <= 2 or (len(sizes) == 4 and sizes[1] == 1))


def _match_projection(value: ir.Value | None, order: tuple[int, ...]) -> _Projection | None:
    """Return the layer behind an operand of a product whose axes are those of the heads [B, L, H, d] in this order."""
    scale, permutation = 1.0, [0, 1, 2, 3]
    while (node := find_producer(value, "Mul", "Transpose")) is not None:
        if node.op_type == "Transpose":
            inner = list(node.attributes.get_ints("perm", []))
            if len(inner) != 4:
                return None
            permutation = [inner[axis] for axis in permutation]
            value = node.inputs[0]
        else:
            factors = [get_constant_scalar(operand) for operand in node.inputs]
            path = 0 if factors[0] is None else 1
            factor = factors[1 - path]
            if factor is None:
                return None
            scale, value = scale * factor, node.inputs[path]
    view = find_producer(value, "Reshape")
    sizes, flat = get_dims(value), get_dims(view.inputs[0]) if view else None
    if view is None or sizes is None or flat is None or tuple(permutation) != order:
        return None
    if len(sizes) != 4 or len(flat) != 3 or not all(isinstance(size, int) for size in (*sizes[1:], *flat[1:])):
        return None
    heads, width = int(sizes[2]), int(sizes[3])  # type: ignore[arg-type]
    layer = _find_layer(view.inputs[0])
    if layer is None or sizes[1] != flat[1] or heads * width != layer.outputs:
        return None
    return _Projection(layer, heads, scale)


def _find_layer(value: ir.Value | None) -> Linear | None:
    """Return the linear layer that computes `value`, with its bias."""
    add = find_producer(value, "Add")
    products = [find_producer(operand, "MatMul") for operand in add.inputs] if add else [find_producer(value, "MatMul")]
    layers = [match_linear(product) for product in products if product is not None]
    return next((layer for layer in layers if layer is not None and layer.result is value), None)


def _match_output(mixed: ir.Node) -> Linear | None:
    """Return the layer that reads the heads side by side: `Reshape(Transpose([B, H, L, d]))` as [B, L, H·d]."""
    transpose = find_only_consumer(mixed.outputs[0])
    if transpose is None or transpose.op_type != "Transpose":
        return None
    if tuple(transpose.attributes.get_ints("perm", [])) != _QUERIES:
        return None
    view = find_only_consumer(transpose.outputs[0])
    sizes, flat = get_dims(transpose.outputs[0]), get_dims(view.outputs[0]) if view else None
    if view is None or view.op_type != "Reshape" or sizes is None or flat is None or len(flat) != 3:
        return None
    if sizes[1] != flat[1] or not all(isinstance(size, int) for size in (*sizes[1:], *flat[1:])):
        return None
    product = find_only_consumer(view.outputs[0])
    layer = match_linear(product) if product is not None else None
    return layer if layer is not None and layer.operand is view.outputs[0] and layer.node.op_type == "MatMul" else None


def _replace(graph: ir.Graph, attention: _Attention) -> None:
    query, output = attention.query, attention.output
    name, heads = attention.scores.outputs[0].name, query.heads
    key = _share(attention.key, query.layer.inputs)
    value = _share(attention.value, output.outputs)
    queries, keys = (_length(projection.layer.operand) for projection in (query, attention.key))
    weight = np.einsum("qhd,khd->qhk", query.by_head(), key.weights).reshape(query.layer.inputs, -1)
    shift = np.einsum("hd,khd->hk", query.bias_by_head(), key.weights).reshape(-1)
    factors = query.layer, attention.key.layer
    new = _make_layer(graph, f"{name}_query", query.layer.operand, weight, shift, factors)
    rows = _make_view(graph, f"{name}_rows", new[-1].outputs[0], [-1, queries * heads, key.width])
    swapped = ir.node("Transpose", [key.value], attributes={"perm": [0, 2, 1]})
    scores = ir.node("MatMul", [rows.outputs[0], swapped.outputs[0]])
    view = _make_view(graph, f"{name}_heads", scores.outputs[0], [-1, queries, heads, keys])
    new += [rows, swapped, scores, view]
    for node in attention.chain:
        new += _copy_for_heads_in_rows(graph, node, new[-1].outputs[0], queries, keys)
    weights = _make_view(graph, f"{name}_weights", new[-1].outputs[0], [-1, queries * heads, keys])
    mixed = ir.node("MatMul", [weights.outputs[0], value.value])
    flat = _make_view(graph, f"{name}_mixed", mixed.outputs[0], [-1, queries, heads * value.width])
    after = output.matrix().reshape(heads, -1, output.outputs)  # [H, d, outputs]
    joined = np.einsum("vhd,hdo->hvo", value.weights, after).reshape(-1, output.outputs)
    bias = np.einsum("hd,hdo->o", value.bias, after)
    before = output.vector()
    new += [weights, mixed, flat]
    shift, factors = bias if before is None else bias + before, (attention.value.layer, output)
    new += _make_layer(graph, f"{name}_output", flat.outputs[0], joined, shift, factors)
    replace_node(graph, output.shift or output.node, new)


def _share(projection: _Projection, others: int) -> _Shared:
    """Return the common input of all heads: the input of a projection, or for narrow heads its result for all heads.

    `others` is the width on the other side of the matrix that the projection would become a part of.
    """
    layer, heads = projection.layer, projection.heads
    width = layer.outputs // heads
    if layer.inputs * others <= (layer.inputs + others) * width:
        return _Shared(layer.operand, projection.by_head(), projection.bias_by_head())
    selection = np.eye(layer.outputs).reshape(layer.outputs, heads, width)
    return _Shared(layer.result, projection.scale * selection, np.zeros((heads, width)))


def _length(value: ir.Value) -> int:
    return int((get_dims(value) or [])[1])  # type: ignore[arg-type]


def _make_layer(
    graph: ir.Graph, name: str, x: ir.Value, weight: np.ndarray, bias: np.ndarray, factors: Sequence[Linear]
) -> list[ir.Node]:
    """Return the nodes of a linear layer made of `factors`, without an Add where the bias is 0."""
    fewest = min((layer.weight for layer in factors), key=get_bits)
    stored = copy_bits(fewest, add_initializer(graph, f"{name}_weight", weight.astype(np.float32)))
    product = ir.node("MatMul", [x, stored])
    if not bias.any():
        return [product]
    vector = add_initializer(graph, f"{name}_bias", bias.astype(np.float32))
    return [product, ir.node("Add", [product.outputs[0], vector])]


def _make_view(graph: ir.Graph, name: str, x: ir.Value, sizes: Sequence[int]) -> ir.Node:
    return ir.node("Reshape", [x, add_initializer(graph, name, np.array(sizes))])


def _copy_for_heads_in_rows(
    graph: ir.Graph, node: ir.Node, scores: ir.Value, queries: int, keys: int
) -> Iterator[ir.Node]:
    """Yield an operator on scores [B, M, H, L] instead of [B, H, M, L], with the views that its other operands need."""
    operands: list[ir.Value | None] = []
    for place, value in enumerate(node.inputs):
        sizes = get_dims(value)
        if place == _path(node) or value is None or sizes is None or len(sizes) < 2:
            operands.append(scores if place == _path(node) else value)
            continue
        batch = -1 if len(sizes) == 4 and sizes[0] != 1 else 1
        inner = [1 if sizes[-2] == 1 else queries, 1, 1 if sizes[-1] == 1 else keys]
        view = _make_view(graph, f"{value.name}_rows", value, [batch, *inner])
        yield view
        operands.append(view.outputs[0])
    yield ir.node(node.op_type, operands, attributes=dict(node.attributes))
