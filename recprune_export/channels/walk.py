"""The walk over a graph that propagates tags along with the values, with one rule per operator.

A rule is registered on the `OpOverload` it describes. It gets the walk and the node, states which tags are removed
together (`walk.equate`) and which cannot be removed (`walk.freeze`), and returns the tags of the node's output. An
operator without a rule freezes the tags of its inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import EMPTY, DependencySets, Reason, distinct, has_tags
from recprune_export.channels.fields import Fields
from recprune_export.channels.inferred_rules import INFERRED, InferredRule, apply_inferred_rule
from recprune_export.channels.tags import TensorTags, elements_to_axes, make_empty_tags, make_untagged_axis
from recprune_export.program.failures import FAILURES
from recprune_export.program.nodes import find_source_line
from recprune_export.program.operator_registry import OPERATORS, Facet

NodeTags = TensorTags | tuple[TensorTags | None, ...] | None  # None: the value is not a tensor
ChannelRule = Callable[["Walk", fx.Node], NodeTags]

aten = torch.ops.aten
_LOOKUPS = (aten.embedding.default, aten.embedding_bag.padding_idx, aten.embedding_bag.default)

RETURNED = "the model returns it"
FIELD_KEY = "a field"  # the first element of a field tag's key, where other keys have the name of a node
RULES: Mapping[Any, ChannelRule] = OPERATORS.rules(Facet.CHANNELS)
WIDEST_AXIS = 1 << 16  # a wider axis counts rows, not channels, and gets no tags


def rule(*operators: Any) -> Callable[[ChannelRule], ChannelRule]:
    """Register the rule of `operators`."""
    return OPERATORS.register(Facet.CHANNELS, *operators)


@dataclass(frozen=True)
class TiedAxis:
    """A choice of the axis along which a tensor shrinks: the axis, the alternatives, and the tags that were tied."""

    axis: int
    alternatives: tuple[int, ...]
    tied: Tensor


class Walk(fx.Interpreter):
    """An interpreter that runs a graph on a small batch and propagates tags along with the values.

    `preferred_axes` holds, by the name of a node, the axis along which to tie tags instead of the likeliest one.
    `fields` get tags where their ids are looked up. It is not a `ValueRecorder`, because rules compute tags during the run.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        sets: DependencySets,
        preferred_axes: Mapping[str, int],
        fields: Fields | None = None,
    ) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.sets = sets
        self.fields = fields
        self.tied_axes: dict[str, TiedAxis] = {}
        self._preferred_axes = preferred_axes
        self._optional: set[tuple[fx.Node, fx.Node]] = set()
        self.node_tags: dict[fx.Node, NodeTags] = {}
        self.tables: set[str] = set()
        self._parameters: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.env[n] = value
        if n.op == "get_attr":
            self.node_tags[n] = self._parameter(n, value)
        elif n.op == "output":
            self._freeze_outputs(n)
        elif n.op == "call_function":
            self.node_tags[n] = self._lift(self._constant_where_inputs_are(n, self._apply_rule(n)))
            self._freeze_tags_of_whole_axes(n)
        else:
            self.node_tags[n] = self.make_untagged(value)
        return value

    def tags(self, argument: Any) -> TensorTags | None:
        """Return the tags of an argument, or None for an argument that is no tensor of the graph."""
        described = self.node_tags.get(argument) if isinstance(argument, fx.Node) else None
        return described if isinstance(described, TensorTags) else None

    def value(self, argument: Any) -> Any:
        """Return an argument with each node replaced by its value."""
        return fx.node.map_arg(argument, lambda node: self.env[node])

    def make_untagged(self, value: Any) -> NodeTags:
        """Return the tags of a value of which nothing can be removed."""
        if isinstance(value, Tensor):
            return make_empty_tags(value.shape)
        if isinstance(value, (tuple, list)):
            return tuple(make_empty_tags(v.shape) if isinstance(v, Tensor) else None for v in value)
        return None

    def make_optional_tags(self, node: fx.Node, axis: int) -> Tensor:
        """Return optional tags for the indices of an axis, with which a field may remove them."""
        size = self.env[node].shape[axis]
        return self.sets.optional_singletons((f"{node.name} leaves out", axis, index) for index in range(size))

    def with_removed_entirely_by(self, described: NodeTags, like: TensorTags | None) -> NodeTags:
        """Return the tags with `removed_entirely_by` of `like`, for an operator that moves a whole value."""
        if isinstance(described, tuple):
            return (
                tuple(tags and replace(tags, removed_entirely_by=like.removed_entirely_by) for tags in described)
                if like
                else described
            )
        return (
            replace(described, removed_entirely_by=like.removed_entirely_by)
            if described is not None and like is not None
            else described
        )

    def mark_operand_optional(self, node: fx.Node, operand: Any) -> None:
        """State that the operator may leave out an operand that is removed entirely."""
        if isinstance(operand, fx.Node):
            self._optional.add((node, operand))

    def is_operand_optional(self, node: fx.Node, operand: fx.Node) -> bool:
        """Return whether a rule marked an operand as optional."""
        return (node, operand) in self._optional

    def add_field_tags(self, node: fx.Node, tags: TensorTags) -> TensorTags:
        """Add the tags of the fields whose ids are looked up, to the whole value or to the indices of an axis."""
        numbers = self.fields.lookups.get(node.name) if self.fields is not None else None
        if numbers is None:
            return tags
        field_tags = self.sets.field_singletons((FIELD_KEY, number, 0) for number in numbers.flatten().tolist())
        if bool((numbers == numbers.flatten()[0]).all()):
            return replace(
                tags, removed_entirely_by=self.sets.unite_sets((tags.removed_entirely_by, int(field_tags[0])))
            )
        field_tags = field_tags.reshape(numbers.shape)
        for axis in range(numbers.ndim if node.target is aten.embedding.default else 0):
            along = field_tags.movedim(axis, 0).reshape(numbers.shape[axis], -1)
            if bool((along == along[:, :1]).all()):
                removed_by, zero_when_masked = list(tags.removed_by), list(tags.zero_when_masked)
                for side in (removed_by, zero_when_masked):
                    side[axis + 1] = self.sets.union(side[axis + 1], along[:, 0])
                return replace(
                    tags,
                    removed_by=tuple(removed_by),
                    zero_when_masked=tuple(zero_when_masked),
                    constant_when_masked=(),
                )
        self.freeze(node, field_tags, "its ids are looked up in a tensor without an axis that separates fields")
        return tags

    def varying_axes(self, node: fx.Node) -> tuple[bool, ...]:
        """Return for each axis of a node's value whether its size varies with the request."""
        return tuple(not isinstance(size, int) for size in node.meta["val"].shape)

    def make_axis_tags(self, node: fx.Node, axis: int, size: int) -> Tensor:
        """Return new tags for an axis whose size its consumers determine."""
        return self.sets.singletons((node.name, axis, index) for index in range(size))

    def tags_from_elements(
        self, node: fx.Node, traced: Tensor, removed_by: Tensor, zero_when_masked: Tensor, constant_when_masked: Tensor
    ) -> TensorTags:
        """Return the axis form of tags by element; see `tags.elements_to_axes`."""

        def choose_axis(candidates: Sequence[int]) -> int:
            axis = self._preferred_axes.get(node.name, candidates[0])
            alternatives = tuple(candidate for candidate in candidates if candidate != axis)
            self.tied_axes.setdefault(node.name, TiedAxis(axis, alternatives, removed_by))
            return axis

        varies = [is_batch_size(size) for size in traced.shape]
        reason = Reason(f"{node.name} mixes it with parts that keep their width", find_source_line(node))
        return elements_to_axes(
            self.sets, removed_by, zero_when_masked, constant_when_masked, varies, reason, choose_axis
        )

    def equate(self, node: fx.Node, left: Tensor, right: Tensor, because: str) -> None:
        """Require that both sides are removed together."""
        self.sets.equate(left, right, Reason(because, find_source_line(node)))

    def freeze(self, node: fx.Node, ids: Tensor, because: str) -> None:
        """Freeze all channels in `ids`."""
        self.sets.freeze(ids, Reason(because, find_source_line(node)))

    def require_zero(self, node: fx.Node, removed_by: Tensor, zero_when_masked: Tensor, because: str) -> None:
        """Freeze tentatively the channels that are not zero when masked, for a reduction that would still count them."""
        self.sets.freeze_tentatively(
            self.sets.difference(removed_by, zero_when_masked), Reason(because, find_source_line(node))
        )

    def mark_lookup(self, node: fx.Node, rows: Tensor, ids: Any) -> None:
        """Freeze `rows`, which are looked up by `ids`, and mark their tensor as a table."""
        self.freeze(node, rows, "its rows are looked up by id")
        if not _depends_on_request(ids):
            return
        for tag in {tag for set_id in distinct(rows) for tag in self.sets.tags_in(set_id)}:
            name, axis, _ = cast(tuple[str, int, int], self.sets.key(tag))
            if axis == 0 and name in self._parameters:
                self.tables.add(name)

    def _apply_rule(self, node: fx.Node) -> NodeTags:
        value = self.env[node]
        channel_rule = RULES.get(node.target) or self._find_inferred_rule(node)
        inputs = [self.node_tags.get(source) for source in node.all_input_nodes]
        if channel_rule is None:
            for described in inputs:
                self._freeze_all(node, described, f"{operator_name(node)} has no rule{_describe_trials(node)}")
            return self.make_untagged(value)
        if _is_scalar(value) and all(isinstance(tags, TensorTags) and not tags.shape for tags in inputs):
            return self.make_untagged(value)
        try:
            return channel_rule(self, node)
        # a form of the operator that the rule does not support: none of its channels are removed
        except FAILURES as error:
            self._optional = {pair for pair in self._optional if pair[0] is not node}
            for described in inputs:
                self._freeze_all(
                    node, described, f"the rule of {operator_name(node)} fails on it ({type(error).__name__})"
                )
            return self.make_untagged(value)

    def _find_inferred_rule(self, node: fx.Node) -> ChannelRule | None:
        found = node.meta.get(INFERRED)
        return partial(apply_inferred_rule, inferred=found) if isinstance(found, InferredRule) else None

    def _constant_where_inputs_are(self, node: fx.Node, described: NodeTags) -> NodeTags:
        """Mark a value that is computed only from parameters as constant."""
        inputs = [self.node_tags.get(source) for source in node.all_input_nodes]
        varying = (isinstance(d, tuple) or (d is not None and not d.constant) for d in inputs)
        if not isinstance(described, TensorTags) or any(varying):
            return described
        return TensorTags(described.removed_by, described.zero_when_masked, constant=True)

    def _lift(self, described: NodeTags) -> NodeTags:
        """Replace a field tag that removes, and makes zero, every index of an axis by one that removes the whole value."""
        if isinstance(described, tuple):
            return tuple(cast(TensorTags | None, self._lift(tags)) for tags in described)
        if described is None or not self.sets.has_field_tags:
            return described
        set_ids = [described.removed_entirely_by]
        for removed_by, zero_when_masked in zip(described.removed_by, described.zero_when_masked, strict=True):
            if len(removed_by) and has_tags(removed_by) and has_tags(zero_when_masked):
                removed_and_zero = self.sets.intersection(
                    self.sets.intersection_along(removed_by, 0), self.sets.intersection_along(zero_when_masked, 0)
                )
                set_ids.append(int(self.sets.field_tags_in(removed_and_zero)))
        whole = self.sets.unite_sets(set_ids)
        if whole == EMPTY:
            return described
        lifted = torch.tensor(whole)
        return replace(
            described.map(lambda axes: [self.sets.difference(axis, lifted) for axis in axes]), removed_entirely_by=whole
        )

    def _freeze_tags_of_whole_axes(self, node: fx.Node) -> None:
        """Freeze channels that would remove every index of an axis: the value would have no elements."""
        described = self.node_tags[node]
        for tags in described if isinstance(described, tuple) else (described,):
            for axis in tags.removed_by if tags is not None else ():
                if len(axis) and has_tags(axis):
                    self.freeze(node, self.sets.intersection_along(axis, 0), "its axis would be empty")

    def _freeze_all(self, node: fx.Node, described: NodeTags, because: str) -> None:
        for tags in described if isinstance(described, tuple) else (described,):
            for axis in tags.removed_by if tags is not None else ():
                self.freeze(node, axis, because)

    def _freeze_outputs(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self._freeze_all(node, self.node_tags.get(source), RETURNED)

    def _parameter(self, node: fx.Node, value: Tensor) -> TensorTags:
        lookups = [ids for user in node.users if (ids := _ids_of_lookup(user, node)) is not None]
        removed_by = []
        for axis, size in enumerate(value.shape):
            counts_rows = size > WIDEST_AXIS or (bool(lookups) and axis == 0)
            removed_by.append(make_untagged_axis(size) if counts_rows else self.make_axis_tags(node, axis, size))
        if any(_depends_on_request(ids) for ids in lookups):
            self.tables.add(node.name)
        if value.ndim > 1:
            self._parameters.add(node.name)
        tags = TensorTags(tuple(removed_by), tuple(removed_by), constant=True)
        # Masking zeroes parameters, not buffers.
        return tags if isinstance(value, torch.nn.Parameter) else tags.without_zero_tags()


def _is_scalar(value: Any) -> bool:
    """Return whether a value is a tensor without axes, which has no index to remove."""
    return isinstance(value, Tensor) and value.ndim == 0


def is_batch_size(size: Any) -> bool:
    """Return whether a traced size is the batch, and not a product with it, which may shrink with its factors."""
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_Symbol)


def _ids_of_lookup(user: fx.Node, table: fx.Node) -> Any:
    """Return the ids by which `user` selects rows of `table`, or None for another operator."""
    if user.target in _LOOKUPS and user.args[0] is table:
        return user.args[1]
    if user.target is aten.index_select.default and user.args[:2] == (table, 0):
        return user.args[2]
    if user.target is aten.index.Tensor and user.args[0] is table:
        return user.args[1][0]  # type: ignore[index]
    return None


def _depends_on_request(ids: Any) -> bool:
    """Return whether ids come from an input, and not, like positions, from a constant."""
    pending, visited = [ids], set()
    while pending:
        node = pending.pop()
        if not isinstance(node, fx.Node) or node in visited or not isinstance(node.meta.get("val"), Tensor):
            continue
        if node.op == "placeholder":
            return True
        visited.add(node)
        pending.extend(node.all_input_nodes)
    return False


def _describe_trials(node: fx.Node) -> str:
    """Return the reason why trials found no rule, or a hint how to run trials."""
    found = node.meta.get(INFERRED)
    return (
        f", and none can be inferred: {found.reason}" if found is not None else "; --infer-rules looks for one by trial"
    )


def operator_name(node: fx.Node) -> str:
    """Return the name of an operator in messages, for example `aten.linear`."""
    return str(node.target).removesuffix(".default") if node.op == "call_function" else node.op
