"""Operators that multiply and sum over shared axes, written as `einsum` has them: one letter for each axis."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.labels import Labels, unlabelled
from recprune_export.channels.rules.elementwise import align
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

Letters = Sequence[object]
K, N, M = "k", "n", "m"

_KEEPS_WIDTH = "it is multiplied with a matrix that keeps its width"
_STAYS = "it is summed over, and would not be zero when masked"


def contract(walk: Walk, node: fx.Node, operands: Sequence[tuple[Letters, Labels]], output: Letters) -> Labels:
    """Labels of the product of `operands`, each with a letter for every axis, summed over the letters not in `output`.

    An index goes from all operands that have its letter. Where the letter is summed over it may go if one of them is
    zero there when masked. An axis of one value beside a longer one is repeated along it.
    """
    size = {letter: 1 for letters, _ in operands for letter in letters}
    for letters, labels in operands:
        size |= {letter: n for letter, n in zip(letters, labels.shape, strict=True) if n != 1}
    removes, zeroes, steady = {}, {}, {}
    for letter in size:
        present = [
            (labels, letters.index(letter))
            for letters, labels in operands
            if letter in letters and _spans(walk, node, labels, letters.index(letter), size[letter])
        ]
        first, axis = present[0]
        for other, own in present[1:]:
            walk.equate(node, first.removes[axis], other.removes[own], _KEEPS_WIDTH)
        removes[letter] = first.removes[axis]
        zeroes[letter] = _union(walk, [labels.zeroes[own] for labels, own in present])
        here = {id(labels) for labels, _ in present}
        varying = [labels for _, labels in operands if id(labels) not in here and not labels.constant]
        common = _common(walk, [labels.steady[own] for labels, own in present])
        steady[letter] = zeroes[letter] if varying else walk.sets.union(zeroes[letter], common)
        if letter not in output:
            walk.require_zero(node, removes[letter], zeroes[letter], _STAYS)
    kept_axes = [tuple(field[letter] for letter in output) for field in (removes, zeroes, steady)]
    return Labels(kept_axes[0], kept_axes[1], kept_axes[2])


def _spans(walk: Walk, node: fx.Node, labels: Labels, axis: int, size: int) -> bool:
    if labels.shape[axis] == size:
        return True
    walk.freeze(node, labels.removes[axis], "an axis of one value is repeated")
    return False


def _union(walk: Walk, sets: Sequence[Tensor]) -> Tensor:
    result = sets[0]
    for ids in sets[1:]:
        result = walk.sets.union(result, ids)
    return result


def _common(walk: Walk, sets: Sequence[Tensor]) -> Tensor:
    result = sets[0]
    for ids in sets[1:]:
        result = walk.sets.common(result, ids)
    return result


def _described(walk: Walk, node: fx.Node, *names: str) -> list[Labels]:
    found = [walk.labels(argument(node, name)) for name in names]
    assert all(labels is not None for labels in found), node
    return found  # type: ignore[return-value]


def add_bias(walk: Walk, node: fx.Node, product: Labels, bias: Labels) -> Labels:
    """A bias is added: what is zero in the product stays zero only along an axis of the bias that is zero too."""
    zeroes, steady = [], []
    for axis, (product_side, bias_side) in enumerate(align(walk, node, [product, bias])):
        assert product_side is not None
        nothing = torch.zeros_like(product.zeroes[axis])
        zeroes.append(walk.sets.common(product.zeroes[axis], nothing if bias_side is None else bias_side.zeroes))
        along = nothing if bias_side is None else bias_side.steady
        steady.append(product.steady[axis] if bias.constant else walk.sets.common(product.steady[axis], along))
    return Labels(product.removes, tuple(zeroes), tuple(steady))


def _batch_letters(labels: Labels, inner: int) -> list[object]:
    """Letters of the axes before the last `inner`, counted from the right as broadcasting does."""
    outer = len(labels.shape) - inner
    return [("batch", position) for position in range(outer, 0, -1)]


@rule(aten.linear.default)
def linear(walk: Walk, node: fx.Node) -> Described:
    """`linear(x: ...×K, W: M×K, b: M)`: K is contracted, M is a new width."""
    x, weight = _described(walk, node, "input", "weight")
    outer = _batch_letters(x, 1)
    new_width = [M] if len(weight.shape) == 2 else []
    product = contract(walk, node, [([*outer, K], x), ([*new_width, K], weight)], [*outer, *new_width])
    bias = walk.labels(argument(node, "bias"))
    return product if bias is None else add_bias(walk, node, product, bias)


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(walk: Walk, node: fx.Node) -> Described:
    """`x: B×F×D @ y: B×D×G`: D is contracted, F and G stay."""
    left, right = (walk.labels(source) for source in node.args[:2])
    assert left is not None and right is not None
    return _matmul(walk, node, left, right)


def _matmul(walk: Walk, node: fx.Node, left: Labels, right: Labels) -> Labels:
    rows = [N] if len(left.shape) > 1 else []
    columns = [M] if len(right.shape) > 1 else []
    outer_left, outer_right = _batch_letters(left, len(rows) + 1), _batch_letters(right, len(columns) + 1)
    outer = max(outer_left, outer_right, key=len)
    operands = [([*outer_left, *rows, K], left), ([*outer_right, K, *columns], right)]
    return contract(walk, node, operands, [*outer, *rows, *columns])


@rule(aten.addmm.default, aten.baddbmm.default)
def add_matmul(walk: Walk, node: fx.Node) -> Described:
    """`b + x @ y`: as the product, then the sum."""
    bias, left, right = (walk.labels(source) for source in node.args[:3])
    assert bias is not None and left is not None and right is not None
    return add_bias(walk, node, _matmul(walk, node, left, right), bias)


@rule(aten.outer.default)
def outer_product(walk: Walk, node: fx.Node) -> Described:
    """`outer(x: N, y: M)`: N×M."""
    left, right = _described(walk, node, "self", "vec2")
    return contract(walk, node, [([N], left), ([M], right)], [N, M])


@rule(aten.bilinear.default)
def bilinear(walk: Walk, node: fx.Node) -> Described:
    """`bilinear(x: ...×N, y: ...×K, W: M×N×K, b: M)`: N and K are contracted, M is a new width."""
    left, right, weight = _described(walk, node, "input1", "input2", "weight")
    outer = _batch_letters(left, 1)
    operands: list[tuple[Letters, Labels]] = [([*outer, N], left), ([*outer, K], right), ([M, N, K], weight)]
    product = contract(walk, node, operands, [*outer, M])
    bias = walk.labels(argument(node, "bias"))
    return product if bias is None else add_bias(walk, node, product, bias)


@rule(aten.tensordot.default)
def tensordot(walk: Walk, node: fx.Node) -> Described:
    """`tensordot(x: B×F×D, y: D×E, [2], [0])`: the listed axes are contracted pair by pair."""
    left, right = _described(walk, node, "self", "other")
    pairs = zip(argument(node, "dims_self"), argument(node, "dims_other"), strict=True)
    shared = {a % len(left.shape): b % len(right.shape) for a, b in pairs}
    left_letters: list[object] = [("left", axis) for axis in range(len(left.shape))]
    right_letters: list[object] = [("right", axis) for axis in range(len(right.shape))]
    for a, b in shared.items():
        right_letters[b] = left_letters[a]
    output = [letter for axis, letter in enumerate(left_letters) if axis not in shared]
    output += [letter for letter in right_letters if letter not in left_letters]
    return contract(walk, node, [(left_letters, left), (right_letters, right)], output)


@rule(aten.einsum.default)
def einsum(walk: Walk, node: fx.Node) -> Described:
    """`einsum("bhd,bmd->bhmd", x, y)`: as it says."""
    operands = [labels for source in argument(node, "tensors") if (labels := walk.labels(source)) is not None]
    terms, output = einsum_letters(argument(node, "equation"), [len(labels.shape) for labels in operands])
    if any(len(set(letters)) < len(letters) for letters in terms):
        for labels in operands:
            for ids in labels.removes:
                walk.freeze(node, ids, "einsum takes a diagonal of it")
        return walk.nothing(walk.env[node])
    return contract(walk, node, list(zip(terms, operands, strict=True)), output)


def einsum_letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[Any]], list[Any]]:
    """Return the letters of each operand and of the result; axes under an ellipsis are numbered from the right.

    >>> einsum_letters("...d,d->...", [3, 1])
    ([[2, 1, 'd'], ['d']], [2, 1])
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_expand_ellipsis(term, rank) for term, rank in zip(left.split(","), ranks, strict=True)]
    every = [letter for term in terms for letter in term]
    outer = sorted({letter for letter in every if isinstance(letter, int)}, reverse=True)
    if not arrow:
        return terms, [*outer, *sorted({c for c in every if isinstance(c, str) and every.count(c) == 1})]
    before, dots, after = right.partition("...")
    return terms, [*before, *(outer if dots else []), *after]


def _expand_ellipsis(term: str, rank: int) -> list[Any]:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *range(hidden, 0, -1), *after]


@rule(aten.cosine_similarity.default)
def cosine_similarity(walk: Walk, node: fx.Node) -> Described:
    """`cosine_similarity(x: B×D, y: B×D, 1)`: D goes from both, and each must be zero there when masked."""
    left, right = _described(walk, node, "x1", "x2")
    rank = max(len(left.shape), len(right.shape))
    axis = argument(node, "dim") % rank
    rows = align(walk, node, [left, right])
    for side in rows[axis]:
        if side is not None:
            walk.require_zero(node, side.removes, side.zeroes, _STAYS)
    kept = [next(side for side in row if side is not None) for position, row in enumerate(rows) if position != axis]
    return Labels(tuple(side.removes for side in kept), tuple(unlabelled(len(side.removes)) for side in kept))
