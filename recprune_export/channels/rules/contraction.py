"""Operators that multiply and sum over shared axes."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from recprune_export.channels.contractions import CONTRACTIONS, contraction_of
from recprune_export.channels.rules.elementwise import align
from recprune_export.channels.tags import Labels, unlabelled
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

Letters = Sequence[object]

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
    kept_axes = [tuple(side[letter] for letter in output) for side in (removes, zeroes, steady)]
    whole = walk.sets.any_of(labels.whole for _, labels in operands)
    return Labels(kept_axes[0], kept_axes[1], kept_axes[2], whole=whole)


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


def _diagonal(walk: Walk, node: fx.Node, letters: Letters, labels: Labels) -> tuple[Letters, Labels]:
    """`einsum("ndd", x)` takes x[n, d, d]: row d goes with column d, and is zero there where one of them is."""
    first = [letters.index(letter) for letter in letters]
    for axis, original in enumerate(first):
        if original != axis:
            walk.equate(node, labels.removes[original], labels.removes[axis], "a diagonal is taken of it")
    axes = sorted(set(first))

    def merged(field: tuple[Tensor, ...]) -> list[Tensor]:
        return [_union(walk, [ids for ids, own in zip(field, first, strict=True) if own == axis]) for axis in axes]

    return [letters[axis] for axis in axes], labels.map(merged) if len(axes) < len(letters) else labels


@rule(*CONTRACTIONS)
def product(walk: Walk, node: fx.Node) -> Described:
    """`linear(x: ...×K, W: M×K, b: M)` and its like, as `contractions` reads them."""
    contraction = contraction_of(node)
    assert contraction is not None
    operands: list[tuple[Letters, Labels]] = [
        (letters, labels) for letters, source in contraction.operands if (labels := walk.labels(source)) is not None
    ]
    assert len(operands) == len(contraction.operands), node
    plain = [_diagonal(walk, node, letters, labels) for letters, labels in operands]
    result = contract(walk, node, plain, contraction.output)
    bias = walk.labels(contraction.bias)
    return result if bias is None else add_bias(walk, node, result, bias)


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
