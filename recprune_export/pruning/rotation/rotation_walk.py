"""A walk over the graph that determines the form of each group's axis in each value.

`rotation_rules.py` holds the rules of the operators; `eligibility.py` defines the forms.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.groups import Group, slice_positions
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import find_source_line
from recprune_export.program.operator_registry import OPERATORS, Facet
from recprune_export.program.program import Program
from recprune_export.pruning.rotation.primal_dual import SignedUnionFind

Form = str  # "vector", "quadratic", "uniform"
RotationRule = Callable[["RotationWalk", fx.Node], None]
_RULES: Mapping[Any, RotationRule] = OPERATORS.rules(Facet.ROTATION)
rotation_rule = partial(OPERATORS.register, Facet.ROTATION)


class RotationWalk:
    """A walk over the graph, with the form of each group's axis in each value, the sides, and the groups ruled out."""

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self._program, self._analysis = program, analysis
        self.groups: tuple[Group, ...] = analysis.groups
        self._group_of = {c.identity: number for number, g in enumerate(analysis.groups) for c in g.channels}
        self.forms: dict[tuple[fx.Node, int], Form] = {}
        self._axes: dict[fx.Node, dict[int, int]] = {}
        self.sources: list[tuple[fx.Node, int, int]] = []
        self._meetings: dict[int, int] = {}
        self.equal_weights: set[tuple[int, fx.Node]] = set()
        self.diagonals: dict[int, fx.Node] = {}
        self.sides = SignedUnionFind()
        self.ruled_out: dict[int, str] = {}

    def visit(self, node: fx.Node) -> None:
        """Apply an operator's rule to the groups that it or its operands carry."""
        if node.op == "output":
            return
        axes = self.axes(node)
        if node.op == "get_attr":
            for group in axes:
                self.set_form(node, group, "vector")
            return
        if node.op != "call_function":
            return
        touched = set(axes)
        for source in node.all_input_nodes:
            touched |= set(self.axes(source))
        if not touched - self.ruled_out.keys():
            return
        _RULES.get(node.target, rule_out_all)(self, node)
        for group in axes:
            if (node, group) not in self.forms:
                self.rule_out(group, node, "does not treat all channels alike")

    def axes(self, node: fx.Node) -> dict[int, int]:
        """Return the groups that a value carries, each with the only axis on which all of its channels lie."""
        if node not in self._axes:
            self._axes[node], broken = self._find_axes(node)
            for group, reason in broken.items():
                self.rule_out(group, node, reason)
        return self._axes[node]

    def _find_axes(self, node: fx.Node) -> tuple[dict[int, int], dict[int, str]]:
        removed_by: Any = self._analysis.removed_by.get(node.name, ())
        if not isinstance(node.meta.get("val"), Tensor):
            return {}, {}  # each of several outputs has its own getitem
        group_axes: dict[int, int] = {}
        broken: dict[int, str] = {}
        for axis, sets in enumerate(removed_by):
            counts: dict[int, dict[int, int]] = {}
            for channel in itertools.chain.from_iterable(sets or ()):
                if channel in self._group_of:
                    occurrences = counts.setdefault(self._group_of[channel], {})
                    occurrences[channel] = occurrences.get(channel, 0) + 1
            for group, numbers in counts.items():
                whole = len(numbers) == self.groups[group].width and len(set(numbers.values())) == 1
                if group in group_axes or not whole:
                    broken[group] = "has it on two axes" if whole else "takes its channels apart"
                group_axes[group] = axis
        return group_axes, broken

    def form(self, node: Any, group: int) -> Form | None:
        """Return the form of a group's axis in a value, or None if the value does not carry it or has no form."""
        return self.forms.get((node, group)) if isinstance(node, fx.Node) else None

    def carries(self, value: Any, group: int) -> bool:
        """Return whether a value has the group's channels on an axis."""
        return isinstance(value, fx.Node) and group in self.axes(value)

    def find_carriers(self, node: fx.Node) -> dict[int, list[fx.Node]]:
        """Return the operands that carry each group, in one pass over the operands: a `cat` may have thousands."""
        carriers: dict[int, list[fx.Node]] = {}
        for source in find_tensor_operands(node):
            for group in self.axes(source):
                carriers.setdefault(group, []).append(source)
        return carriers

    def set_form(self, node: fx.Node, group: int, form: Form) -> None:
        """State the form of a group's axis in a value."""
        self.forms[node, group] = form

    def start_at_weight(self, node: fx.Node, group: int, weight: fx.Node) -> None:
        """State that a node's values along the axis come from a weight, as a layer's outputs or a lookup's rows."""
        if self.form(weight, group) != "vector":
            return self.rule_out(group, node, "reads it in a form that is not linear")
        self.set_form(node, group, "vector")
        self.sides.same((node, group), (weight, group))
        self.sources.append((node, group, self.axes(node)[group]))
        return None

    def follow_operands(self, node: fx.Node, group: int, sources: Iterable[fx.Node]) -> None:
        """State that a value has the form of its sources along the axis."""
        carriers = list(sources)
        forms = {self.form(source, group) for source in carriers}
        if len(forms) != 1 or None in forms:
            return self.rule_out(group, node, "adds a term that is not linear in it")
        for source in carriers:
            self.sides.same((node, group), (source, group))
        form = forms.pop()
        assert form is not None
        self.set_form(node, group, form)
        return None

    def contract_values(self, node: fx.Node, group: int, first: fx.Node, second: fx.Node) -> None:
        """State that two values form an inner product over the axis."""
        if {self.form(first, group), self.form(second, group)} != {"vector"}:
            return self.rule_out(group, node, "multiplies a factor that is not linear in it")
        self.sides.opposite((first, group), (second, group))
        self._meetings[group] = self._meetings.get(group, 0) + 1
        return None

    def weight_channels(self, node: fx.Node, group: int, weight: fx.Node, tensor: Tensor) -> None:
        """State that the channels of a product are summed with the weights of `tensor`, channels on its last axis."""
        if self._meetings.get(group, 0) != 1 or len(weight.users) > 1:
            return self.rule_out(group, node, "weighs its channels by constants")
        if bool((tensor == tensor[..., :1]).all()):
            self.equal_weights.add((group, weight))
        elif tensor.numel() == tensor.shape[-1]:
            self.diagonals[group] = weight
        else:
            self.rule_out(group, node, "weighs its channels in several ways")
        return None

    def rule_out(self, group: int, node: fx.Node, reason: str) -> None:
        """State that a group cannot be rotated."""
        place = f" ({where})" if (where := find_source_line(node)) else ""
        self.ruled_out.setdefault(group, f"{node.name} {reason}{place}")

    def weight_block(self, weight: fx.Node, group: int) -> Tensor:
        """Return the slices of a weight at a group's channels, [occurrences, ..., D]."""
        axis = self.axes(weight)[group]
        tensor = tensor_at(self._program.module, str(weight.target)).detach().movedim(axis, -1)
        positions = slice_positions(self.groups[group], str(weight.target), axis)
        return torch.stack([tensor[..., indices] for indices in positions])

    def weight_nodes(self) -> dict[str, fx.Node]:
        """Return the nodes of the visited weights."""
        return {str(node.target): node for node, _ in self.forms if node.op == "get_attr"}


def find_tensor_operands(node: fx.Node) -> list[fx.Node]:
    """Return the operands that are tensors or sequences of tensors."""
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor | tuple | list)]


def rule_out_all(tracing: RotationWalk, node: fx.Node, reason: str = "does not treat all directions alike") -> None:
    """Rule out every group that an operator or its operands carry: the rule for operators without one."""
    for source in (node, *node.all_input_nodes):
        for group in tracing.axes(source):
            tracing.rule_out(group, node, reason)
