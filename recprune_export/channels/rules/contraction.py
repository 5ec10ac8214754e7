"""Operators that multiply and sum over a shared axis: linear layers, matrix products, inner products."""

import torch
from torch import Tensor, fx

from recprune_export.channels.labels import Labels
from recprune_export.channels.rules.elementwise import align
from recprune_export.channels.walk import Described, Walk, rule

aten = torch.ops.aten


def contract(walk: Walk, node: fx.Node, left: Labels, right: Labels) -> Labels:
    """Labels of `left: ...×N×K @ right: ...×K×M`.

    Index k goes from both sides at once, and may go if one side is zero there when masked. The outer axes keep their
    labels: a row of zeros on the left gives a row of zeros in the product.
    """
    inner_left, inner_right = left.removes[-1], right.removes[-2]
    walk.equate(node, inner_left, inner_right, "it is multiplied with a matrix that keeps its width")
    zero = walk.sets.union(left.zeroes[-1], right.zeroes[-2])
    walk.require_zero(node, inner_left, zero, "it is summed over, and would not be zero when masked")
    batch_left = Labels(left.removes[:-2], left.zeroes[:-2])
    batch_right = Labels(right.removes[:-2], right.zeroes[:-2])
    removes: list[Tensor] = []
    zeroes: list[Tensor] = []
    for row in align(walk, node, [batch_left, batch_right]) if batch_left.removes or batch_right.removes else []:
        present = [pair for pair in row if pair is not None]
        removes.append(present[0][0])
        zero = present[0][1]
        for pair in present[1:]:
            zero = walk.sets.union(zero, pair[1])
        zeroes.append(zero)
    return Labels((*removes, left.removes[-2], right.removes[-1]), (*zeroes, left.zeroes[-2], right.zeroes[-1]))


def _transposed(labels: Labels) -> Labels:
    return Labels(
        (*labels.removes[:-2], labels.removes[-1], labels.removes[-2]),
        (*labels.zeroes[:-2], labels.zeroes[-1], labels.zeroes[-2]),
    )


def _insert_axis(labels: Labels, axis: int) -> Labels:
    one = torch.zeros(1, dtype=torch.int64)
    removes, zeroes = list(labels.removes), list(labels.zeroes)
    removes.insert(axis, one)
    zeroes.insert(axis, one)
    return Labels(tuple(removes), tuple(zeroes))


def _drop_axis(labels: Labels, axis: int) -> Labels:
    removes, zeroes = list(labels.removes), list(labels.zeroes)
    del removes[axis], zeroes[axis]
    return Labels(tuple(removes), tuple(zeroes))


def _add_bias(walk: Walk, node: fx.Node, product: Labels, bias: Labels) -> Labels:
    """A bias is added: what is zero in the product stays zero only along an axis of the bias that is zero too."""
    removes, zeroes = [], []
    for product_side, bias_side in align(walk, node, [product, bias]):
        assert product_side is not None
        removes.append(product_side[0])
        nothing = torch.zeros_like(product_side[1])
        zeroes.append(walk.sets.common(product_side[1], bias_side[1] if bias_side is not None else nothing))
    return Labels(tuple(removes), tuple(zeroes))


@rule(aten.linear.default)
def linear(walk: Walk, node: fx.Node) -> Described:
    """`linear(x: ...×K, W: M×K, b: M)`: K is contracted, M is a new width."""
    x, weight = walk.labels(node.args[0]), walk.labels(node.args[1])
    assert x is not None and weight is not None
    vector = len(x.shape) == 1
    product = contract(walk, node, _insert_axis(x, 0) if vector else x, _transposed(weight))
    product = _drop_axis(product, 0) if vector else product
    bias = walk.labels(node.args[2]) if len(node.args) > 2 else None
    return product if bias is None else _add_bias(walk, node, product, bias)


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(walk: Walk, node: fx.Node) -> Described:
    """`x: B×F×D @ y: B×D×G`: D is contracted, F and G stay."""
    left, right = walk.labels(node.args[0]), walk.labels(node.args[1])
    assert left is not None and right is not None
    left_is_vector, right_is_vector = len(left.shape) == 1, len(right.shape) == 1
    left = _insert_axis(left, 0) if left_is_vector else left
    right = _insert_axis(right, 1) if right_is_vector else right
    product = contract(walk, node, left, right)
    product = _drop_axis(product, -1) if right_is_vector else product
    return _drop_axis(product, -1 if right_is_vector else -2) if left_is_vector else product


@rule(aten.addmm.default, aten.baddbmm.default)
def add_matmul(walk: Walk, node: fx.Node) -> Described:
    """`b + x @ y`: as the product, then the sum."""
    bias, left, right = (walk.labels(argument) for argument in node.args[:3])
    assert bias is not None and left is not None and right is not None
    return _add_bias(walk, node, contract(walk, node, left, right), bias)
