"""Eligibility of groups for rotation: the axis of a group must be vector-like in all values that have it.

A value is *vector-like* along a group's axis when x ↦ Aᵀx may be applied to it and its readers can undo it: linear
layers, products and sums over other axes. An elementwise product of two vector-like values is *quadratic*: it may only be
summed over the axis with equal weights, which gives an inner product (FM's ½(Σ²-Σ²) consists of such sums). A value that was expanded
along the axis is *uniform*, and may scale the others. Any other value (after a ReLU, a gain by channel, a normalization) has no form, and
the group is not rotated.

The two factors of an inner product, or a value and its weight, are on opposite *sides*: one is transformed by A, the other by A⁻ᵀ. If
both sides are the same tensor (FM, dot products of all pairs of fields, a shared table), A must be orthogonal.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

import recprune_export.pruning.rotation.rotation_rules  # noqa: F401 (registers the rules)
from recprune_export.program.program import Program
from recprune_export.pruning.rotation.rotation_walk import RotationWalk, find_tensor_operands

_ROTATABLE_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class RotatableGroup:
    """A group whose channels may be transformed.

    `sides[tensor, axis]` is +1 where the axis is multiplied by A and -1 where by A⁻ᵀ; with `orthogonal` they are the same.
    `sources` are the nodes that first hold values along the axis, each with the axis and the side.
    """

    group: str
    orthogonal: bool
    sides: Mapping[tuple[str, int], int]
    sources: tuple[tuple[str, int, int], ...]  # node, axis, side


@dataclass(frozen=True)
class DiagonalWeights:
    """Weights that multiply the channels of an elementwise product before the sum, as in GMF.

    They can be folded into one of the factors: `scaled` are the axes of that factor's side, `weight` is the matrix 1×K,
    and `axis` its axis K.
    """

    weight: str
    axis: int
    scaled: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RotationEligibility:
    """The groups that may be rotated, and the reasons, for messages, why the others may not.

    `diagonals` names those of the others that may be rotated after their weights are folded (`fold_diagonals`).
    """

    rotatable: Mapping[str, RotatableGroup]
    reasons: Mapping[str, str]
    diagonals: Mapping[str, DiagonalWeights]


def find_rotatable_groups(program: Program) -> RotationEligibility:
    """Decide for each group of `program` whether it may be rotated.

    Time and memory are linear in the edges of the graph and the groups that their values carry, and in the channels.
    """
    tracing = RotationWalk(program)
    for node in program.module.graph.nodes:
        tracing.visit(node)
    return _gather(tracing)


def _gather(tracing: RotationWalk) -> RotationEligibility:
    nodes, ruled_out = tracing.weight_nodes(), dict(tracing.ruled_out)
    starts_by_group: dict[int, list[tuple[fx.Node, int]]] = defaultdict(list)
    for node, number, axis in tracing.sources:
        starts_by_group[number].append((node, axis))
    equal_weights_by_group: dict[int, set[fx.Node]] = defaultdict(set)
    for number, equal_weight in tracing.equal_weights:
        equal_weights_by_group[number].add(equal_weight)
    rotatable: dict[str, RotatableGroup] = {}
    diagonals: dict[str, DiagonalWeights] = {}
    for number, group in enumerate(tracing.groups):
        missing = [tensor for tensor, _ in group.axes() if tensor not in nodes]
        if number not in ruled_out and (missing or group.width < 2):
            ruled_out[number] = "there is one channel only" if not missing else f"{missing[0]} is not read"
        low_precision = [
            t for t, _ in group.axes() if t in nodes and nodes[t].meta["val"].dtype not in _ROTATABLE_DTYPES
        ]
        if low_precision:
            ruled_out.setdefault(number, f"{low_precision[0]} is stored in too few bits to be rotated")
        if number in ruled_out:
            continue
        rotatable_group = _rotatable(tracing, number, nodes, starts_by_group[number], equal_weights_by_group[number])
        weight = tracing.diagonals.get(number)
        if weight is None:
            rotatable[group.name] = rotatable_group
        else:
            ruled_out[number] = f"{weight.target} weighs its channels"
            scaled = tuple(key for key, side in rotatable_group.sides.items() if side < 0)
            if not rotatable_group.orthogonal and scaled:
                diagonals[group.name] = DiagonalWeights(str(weight.target), tracing.axes(weight)[number], scaled)
    names = {group.name: ruled_out[n] for n, group in enumerate(tracing.groups) if n in ruled_out}
    return RotationEligibility(rotatable, names, diagonals)


def _rotatable(
    tracing: RotationWalk,
    number: int,
    nodes: Mapping[str, fx.Node],
    starts: Sequence[tuple[fx.Node, int]],
    equal_weights: Collection[fx.Node],
) -> RotatableGroup:
    """Return a group that is not ruled out; its values start at `starts`, and `equal_weights` sum its channels."""
    group, folded = tracing.groups[number], {*equal_weights, tracing.diagonals.get(number)}
    axes = [(tensor, axis) for tensor, axis in group.axes() if nodes[tensor] not in folded]
    first = (nodes[axes[0][0]], number)
    sides = {(tensor, axis): tracing.sides.between(first, (nodes[tensor], number)) for tensor, axis in axes}
    sources = tuple(
        (node.name, axis, tracing.sides.between(first, (node, number)) or 1)
        for node, axis in starts or _first_values(tracing, number)
    )
    orthogonal = tracing.sides.contradicts(first) or None in sides.values() or len(axes) != len(dict(axes))
    return RotatableGroup(group.name, bool(orthogonal), {key: side or 1 for key, side in sides.items()}, sources)


def _first_values(tracing: RotationWalk, number: int) -> list[tuple[fx.Node, int]]:
    """Return the first values computed from a group's weights, where no layer or lookup reads them."""
    return [
        (node, tracing.axes(node)[number])
        for node, owner in tracing.forms
        if owner == number and node.op == "call_function"
        if not any(
            source.op == "call_function" and tracing.carries(source, number) for source in find_tensor_operands(node)
        )
    ]
