"""Which groups may be rotated: whose axis is vector-like wherever it goes.

A value is *vector-like* along a group's axis when x ↦ Aᵀx may be applied to it and undone by whoever reads it: linear
layers, products and sums over other axes. An elementwise product of two vector-like values is *quadratic*: it may only be
summed over the axis, every channel alike, for then it is an inner product (FM's ½(Σ²-Σ²) is made of such sums). What was
expanded along the axis is *uniform*, and may scale the others. Anything
else (a ReLU, a gain by channel, a normalisation) is neither, and the group stays as it is.

Where two values meet in an inner product, or a value meets a weight, they lie on opposite *sides*: one is transformed by
A, the other by A⁻ᵀ. Where both sides turn out to be the same tensor (FM, dot products of all pairs of fields, a shared
table) A has to be orthogonal.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

import recprune_export.pruning.rotation.rotation_rules  # noqa: F401 (what the walk goes by)
from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.rotation.rotation_walk import RotationWalk, find_tensor_operands

_FINE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class RotatableGroup:
    """A group whose channels may be transformed.

    `sides[tensor, axis]` is +1 where the axis is multiplied by A and -1 where by A⁻ᵀ; with `orthogonal` they are the same.
    `sources` are the nodes that first put out values along the axis, each with the axis.
    """

    group: str
    orthogonal: bool
    sides: Mapping[tuple[str, int], int]
    sources: tuple[tuple[str, int, int], ...]  # node, axis, side


@dataclass(frozen=True)
class DiagonalWeights:
    """Weights that multiply the channels of an elementwise product before they are summed, as in GMF.

    They can be moved into one of the factors: `scaled` are the axes of that side, `weight` the matrix 1×K, `axis` its K.
    """

    weight: str
    axis: int
    scaled: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RotationEligibility:
    """The groups that may be rotated, for each of the others the reason in the user's words.

    `diagonals` names among those the ones that may be rotated once a diagonal has been moved (`loosen`).
    """

    rotatable: Mapping[str, RotatableGroup]
    reasons: Mapping[str, str]
    diagonals: Mapping[str, DiagonalWeights]


def find_rotatable_groups(program: Program) -> RotationEligibility:
    """Decide for each group of `program` whether it may be rotated. Time is linear in the size of the graph."""
    tracing = RotationWalk(program)
    for node in program.module.graph.nodes:
        tracing.visit(node)
    return _gather(tracing)


def _gather(tracing: RotationWalk) -> RotationEligibility:
    nodes, ruled_out = tracing.weight_nodes(), dict(tracing.ruled_out)
    rotatable: dict[str, RotatableGroup] = {}
    diagonals: dict[str, DiagonalWeights] = {}
    for number, group in enumerate(tracing.groups):
        missing = [tensor for tensor, _ in group.axes() if tensor not in nodes]
        if number not in ruled_out and (missing or group.width < 2):
            ruled_out[number] = "there is one channel only" if not missing else f"{missing[0]} is not read"
        coarse = [t for t in nodes if t in dict(group.axes()) and nodes[t].meta["val"].dtype not in _FINE]
        if coarse:
            ruled_out.setdefault(number, f"{coarse[0]} is stored in too few bits to be rotated")
        if number in ruled_out:
            continue
        found = _rotatable(tracing, number, group, nodes)
        weight = tracing.diagonals.get(number)
        if weight is None:
            rotatable[group.name] = found
        else:
            ruled_out[number] = f"{weight.target} weighs its channels"
            scaled = tuple(key for key, side in found.sides.items() if side < 0)
            if not found.orthogonal and scaled:
                diagonals[group.name] = DiagonalWeights(str(weight.target), tracing.axes(weight)[number], scaled)
    names = {group.name: ruled_out[n] for n, group in enumerate(tracing.groups) if n in ruled_out}
    return RotationEligibility(rotatable, names, diagonals)


def _rotatable(tracing: RotationWalk, number: int, group: Group, nodes: Mapping[str, fx.Node]) -> RotatableGroup:
    alike = {w for own, w in tracing.equal_weights if own == number} | {tracing.diagonals.get(number)}
    axes = [(tensor, axis) for tensor, axis in group.axes() if nodes[tensor] not in alike]
    first = (nodes[axes[0][0]], number)
    sides = {(tensor, axis): tracing.sides.between(first, (nodes[tensor], number)) for tensor, axis in axes}
    own_sources = [(node, axis) for node, own, axis in tracing.sources if own == number]
    sources = tuple(
        (node.name, axis, tracing.sides.between(first, (node, number)) or 1)
        for node, axis in own_sources or _first_values(tracing, number)
    )
    orthogonal = tracing.sides.contradicts(first) or None in sides.values() or len(axes) != len(dict(axes))
    return RotatableGroup(group.name, bool(orthogonal), {key: side or 1 for key, side in sides.items()}, sources)


def _first_values(tracing: RotationWalk, number: int) -> list[tuple[fx.Node, int]]:
    """Where a group is read from its weights by other means than layers and lookups: what was made of them first."""
    return [
        (node, tracing.axes(node)[number])
        for node, own in tracing.forms
        if own == number and node.op == "call_function"
        if not any(
            source.op == "call_function" and tracing.carries(source, number) for source in find_tensor_operands(node)
        )
    ]
