"""Operators that multiply and sum over shared axes."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from recprune_export.channels.contractions import CONTRACTIONS, read_contraction
from recprune_export.channels.dependency_sets import untagged_like
from recprune_export.channels.rules.elementwise import align
from recprune_export.channels.tags import TensorTags, make_untagged_axis
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

Letters = Sequence[object]

_KEEPS_WIDTH = "it is multiplied with a matrix that keeps its width"
_STAYS = "it is summed over, and would not be zero when masked"


def contract(walk: Walk, node: fx.Node, operands: Sequence[tuple[Letters, TensorTags]], output: Letters) -> TensorTags:
    """Return the tags of the product of `operands`, each with a letter for every axis, summed over letters not in `output`.

    An index is removed from all operands that have its letter. Where the letter is summed over, it may be removed if one
    of them is zero there when masked. An axis of size 1 is repeated along a longer axis of the same letter.
    """
    size = {letter: 1 for letters, _ in operands for letter in letters}
    for letters, tags in operands:
        size |= {letter: n for letter, n in zip(letters, tags.shape, strict=True) if n != 1}
    removed_by, zero_when_masked, constant_when_masked = {}, {}, {}
    for letter in size:
        present = [
            (tags, letters.index(letter))
            for letters, tags in operands
            if letter in letters and _spans(walk, node, tags, letters.index(letter), size[letter])
        ]
        first, axis = present[0]
        for other, other_axis in present[1:]:
            walk.equate(node, first.removed_by[axis], other.removed_by[other_axis], _KEEPS_WIDTH)
        removed_by[letter] = first.removed_by[axis]
        zero_when_masked[letter] = _union(walk, [tags.zero_when_masked[a] for tags, a in present])
        present_ids = {id(tags) for tags, _ in present}
        varying = [tags for _, tags in operands if id(tags) not in present_ids and not tags.constant]
        common = _common(walk, [tags.constant_when_masked[a] for tags, a in present])
        constant_when_masked[letter] = (
            zero_when_masked[letter] if varying else walk.sets.union(zero_when_masked[letter], common)
        )
        if letter not in output:
            walk.require_zero(node, removed_by[letter], zero_when_masked[letter], _STAYS)
    descriptions = [
        tuple(side[letter] for letter in output) for side in (removed_by, zero_when_masked, constant_when_masked)
    ]
    whole = walk.sets.unite_sets(tags.removed_entirely_by for _, tags in operands)
    return TensorTags(descriptions[0], descriptions[1], descriptions[2], removed_entirely_by=whole)


def _spans(walk: Walk, node: fx.Node, tags: TensorTags, axis: int, size: int) -> bool:
    if tags.shape[axis] == size:
        return True
    walk.freeze(node, tags.removed_by[axis], "an axis of one value is repeated")
    return False


def _union(walk: Walk, sets: Sequence[Tensor]) -> Tensor:
    result = sets[0]
    for ids in sets[1:]:
        result = walk.sets.union(result, ids)
    return result


def _common(walk: Walk, sets: Sequence[Tensor]) -> Tensor:
    result = sets[0]
    for ids in sets[1:]:
        result = walk.sets.intersection(result, ids)
    return result


def _operand_tags(walk: Walk, node: fx.Node, *names: str) -> list[TensorTags]:
    operands = [walk.tags(argument(node, name)) for name in names]
    assert all(tags is not None for tags in operands), node
    return operands  # type: ignore[return-value]


def add_bias(walk: Walk, node: fx.Node, product: TensorTags, bias: TensorTags) -> TensorTags:
    """Return the tags of product plus bias: an index that is zero in the product stays zero where the bias is zero too."""
    zero_when_masked, constant_when_masked = [], []
    for axis, (product_side, bias_side) in enumerate(align(walk, node, [product, bias])):
        assert product_side is not None
        nothing = untagged_like(product.zero_when_masked[axis])
        zero_when_masked.append(
            walk.sets.intersection(
                product.zero_when_masked[axis], nothing if bias_side is None else bias_side.zero_when_masked
            )
        )
        along = nothing if bias_side is None else bias_side.constant_when_masked
        constant_when_masked.append(
            product.constant_when_masked[axis]
            if bias.constant
            else walk.sets.intersection(product.constant_when_masked[axis], along)
        )
    return TensorTags(product.removed_by, tuple(zero_when_masked), tuple(constant_when_masked))


def _diagonal(walk: Walk, node: fx.Node, letters: Letters, tags: TensorTags) -> tuple[Letters, TensorTags]:
    """`einsum("ndd", x)` is x[n, d, d]: row d is removed with column d, and is zero where one of them is."""
    first = [letters.index(letter) for letter in letters]
    for axis, original in enumerate(first):
        if original != axis:
            walk.equate(node, tags.removed_by[original], tags.removed_by[axis], "a diagonal is taken from it")
    axes = sorted(set(first))

    def merged(field: tuple[Tensor, ...]) -> list[Tensor]:
        return [_union(walk, [ids for ids, a in zip(field, first, strict=True) if a == axis]) for axis in axes]

    return [letters[axis] for axis in axes], tags.map(merged) if len(axes) < len(letters) else tags


@rule(*CONTRACTIONS)
def product(walk: Walk, node: fx.Node) -> NodeTags:
    """`linear(x: ...×K, W: M×K, b: M)` and other operators that `contractions` describes."""
    contraction = read_contraction(node)
    assert contraction is not None
    operands: list[tuple[Letters, TensorTags]] = [
        (letters, tags) for letters, source in contraction.operands if (tags := walk.tags(source)) is not None
    ]
    assert len(operands) == len(contraction.operands), node
    plain = [_diagonal(walk, node, letters, tags) for letters, tags in operands]
    result = contract(walk, node, plain, contraction.output)
    bias = walk.tags(contraction.bias)
    return result if bias is None else add_bias(walk, node, result, bias)


@rule(aten.cosine_similarity.default)
def cosine_similarity(walk: Walk, node: fx.Node) -> NodeTags:
    """`cosine_similarity(x: B×D, y: B×D, 1)`: D is removed from both, and both must be zero there when masked."""
    left, right = _operand_tags(walk, node, "x1", "x2")
    rank = max(len(left.shape), len(right.shape))
    axis = argument(node, "dim") % rank
    rows = align(walk, node, [left, right])
    for side in rows[axis]:
        if side is not None:
            walk.require_zero(node, side.removed_by, side.zero_when_masked, _STAYS)
    sides = [next(side for side in row if side is not None) for position, row in enumerate(rows) if position != axis]
    return TensorTags(
        tuple(side.removed_by for side in sides), tuple(make_untagged_axis(len(side.removed_by)) for side in sides)
    )
