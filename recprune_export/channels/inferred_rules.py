"""Channel rules that trials found for operators without a written one: their form, and their effect on tags.

`rule_trials.py` finds them, for the node of one operator in one graph; they are stored in `node.meta`, which copies of the
node keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from torch import Tensor, fx

from recprune_export.channels.dependency_sets import untagged_like
from recprune_export.channels.tags import TensorTags, make_empty_tags
from recprune_export.codec import ToDictMixin

if TYPE_CHECKING:
    from recprune_export.channels.walk import NodeTags, Walk

INFERRED = "recprune_inferred_rule"  # key in `node.meta`: an `InferredRule`, or a `NoInferredRule`


@dataclass(frozen=True)
class CarriedAxis:
    """An axis that is carried: removing index i from all of these operands removes exactly index i from the results.

    `operands` are pairs of a number among the node's tensor operands and an axis; `results` has the axis of each result, or None for a
    result that does not change. The results are zero at index i if all operands are, or if one operand of `zero_with` is.
    """

    operands: tuple[tuple[int, int], ...]
    results: tuple[int | None, ...]
    zero_with: tuple[int, ...]
    zero_with_all: bool


@dataclass(frozen=True)
class InferredRule(ToDictMixin):
    """The axes that an operator carries from its operands to its results, confirmed by all of `trials` comparisons."""

    ENCODED = ("operator", "trials")

    operator: str
    trials: int
    axes: tuple[CarriedAxis, ...]


@dataclass(frozen=True)
class NoInferredRule:
    """The reason for which trials found no rule."""

    reason: str


def apply_inferred_rule(walk: "Walk", node: fx.Node, inferred: InferredRule) -> "NodeTags":
    """Return the tags of a node's value by an inferred rule; tags of axes that are not carried are frozen."""
    operands = [walk.tags(source) or make_empty_tags(()) for source in node.all_input_nodes]
    carried = {place for axis in inferred.axes for place in axis.operands}
    for number, tags in enumerate(operands):
        for axis, removed_by in enumerate(tags.removed_by):
            if (number, axis) not in carried:
                walk.freeze(node, removed_by, f"{inferred.operator} combines its indices, as trials showed")
    value = walk.env[node]
    values = value if isinstance(value, tuple | list) else (value,)
    results = [make_empty_tags(result.shape) for result in values]
    for along in inferred.axes:
        removed_by, zero, constant = _combine(walk, node, operands, along)
        for number, place in enumerate(along.results):
            if place is not None:
                results[number] = _with_axis(results[number], place, removed_by, zero, constant)
    return tuple(results) if isinstance(value, tuple | list) else results[0]


def _combine(
    walk: "Walk", node: fx.Node, operands: Sequence[TensorTags], axis: CarriedAxis
) -> tuple[Tensor, Tensor, Tensor]:
    """Tie the operands index by index; return the tags of the result's axis: removed by, zero and constant when masked."""
    first, *others = (operands[number].removed_by[place] for number, place in axis.operands)
    for other in others:
        walk.equate(node, first, other, "it is combined with a tensor that keeps its width")
    zeros = {number: operands[number].zero_when_masked[place] for number, place in axis.operands}
    zero = reduce(walk.sets.union, (zeros[number] for number in axis.zero_with), untagged_like(first))
    if axis.zero_with_all:
        zero = walk.sets.union(zero, reduce(walk.sets.intersection, zeros.values()))
    constant = zero
    if all(tags.constant for number, tags in enumerate(operands) if number not in zeros):
        constants = (operands[number].constant_when_masked[place] for number, place in axis.operands)
        constant = walk.sets.union(zero, reduce(walk.sets.intersection, constants))
    return first, zero, constant


def _with_axis(tags: TensorTags, axis: int, removed_by: Tensor, zero: Tensor, constant: Tensor) -> TensorTags:
    def put(axes: tuple[Tensor, ...], new: Tensor) -> tuple[Tensor, ...]:
        return (*axes[:axis], new, *axes[axis + 1 :])

    return replace(
        tags,
        removed_by=put(tags.removed_by, removed_by),
        zero_when_masked=put(tags.zero_when_masked, zero),
        constant_when_masked=put(tags.constant_when_masked, constant),
    )


def list_inferred_rules(graph: fx.Graph) -> tuple[InferredRule, ...]:
    """Return the inferred rules of a graph's nodes, one for each operator, with the smallest number of trials among its nodes."""
    rules: dict[str, InferredRule] = {}
    for node in graph.nodes:
        found = node.meta.get(INFERRED)
        if isinstance(found, InferredRule) and (
            found.operator not in rules or found.trials < rules[found.operator].trials
        ):
            rules[found.operator] = found
    return tuple(rules.values())
