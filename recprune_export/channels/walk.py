"""The walk over a graph: values and labels side by side, one rule per operator.

A rule is registered on the `OpOverload` it describes. It gets the walk and the node, says which labels are one
(`walk.equate`) and which cannot go (`walk.freeze`), and returns the labels of the node's output. An operator without a
rule freezes what it touches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import EMPTY, LabelSets, Reason, distinct
from recprune_export.channels.fields import Fields
from recprune_export.channels.tags import Labels, empty, from_elements, unlabelled

Described = Labels | tuple[Labels | None, ...] | None  # None: the value is no tensor
Rule = Callable[["Walk", fx.Node], Described]

aten = torch.ops.aten
_LOOKUPS = (aten.embedding.default, aten.embedding_bag.padding_idx, aten.embedding_bag.default)

FIELD = "a field"  # begins the key of its label, as the name of a node does those of other labels
RULES: dict[Any, Rule] = {}
WIDEST_AXIS = 1 << 16  # a wider axis counts rows, not channels, and is never labelled


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register the rule of `operators`."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            assert operator not in RULES, f"{operator} has two rules"
            RULES[operator] = function
        return function

    return register


@dataclass(frozen=True)
class Layout:
    """Where labels were tied because a tensor can only shrink along whole axes: the axis, what else it could have been."""

    axis: int
    others: tuple[int, ...]
    tied: Tensor


class Walk(fx.Interpreter):
    """Runs a graph on a small batch and carries labels beside the values.

    `wanted` names, for nodes of which the likeliest axis turned out to be wrong, the one to tie labels along instead.
    `fields` are given labels where their ids are looked up.
    """

    def __init__(
        self, module: fx.GraphModule, sets: LabelSets, wanted: Mapping[str, int], fields: Fields | None = None
    ) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.sets = sets
        self.fields = fields
        self.layouts: dict[str, Layout] = {}
        self._wanted = wanted
        self._optional: set[tuple[fx.Node, fx.Node]] = set()
        self.described: dict[fx.Node, Described] = {}
        self.tables: set[str] = set()
        self._parameters: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.env[n] = value
        if n.op == "get_attr":
            self.described[n] = self._parameter(n, value)
        elif n.op == "output":
            self._freeze_outputs(n)
        elif n.op == "call_function":
            self.described[n] = self._lift(self._constant_where_inputs_are(n, self._apply_rule(n)))
            self._keep_what_would_leave_nothing(n)
        else:
            self.described[n] = self.nothing(value)
        return value

    def labels(self, argument: Any) -> Labels | None:
        """Return the labels of an argument, or None for what is no tensor of the graph."""
        described = self.described.get(argument) if isinstance(argument, fx.Node) else None
        return described if isinstance(described, Labels) else None

    def value(self, argument: Any) -> Any:
        """Return the value of an argument: of a node what it computed, of a list its values."""
        return fx.node.map_arg(argument, lambda node: self.env[node])

    def nothing(self, value: Any) -> Described:
        """Describe a value of which nothing can be removed."""
        if isinstance(value, Tensor):
            return empty(value.shape)
        if isinstance(value, (tuple, list)):
            return tuple(empty(v.shape) if isinstance(v, Tensor) else None for v in value)
        return None

    def slack(self, node: fx.Node, axis: int) -> Tensor:
        """Return labels with which the indices of an axis may be left out where a field asks for it."""
        size = self.env[node].shape[axis]
        return self.sets.slack_singletons((f"{node.name} leaves out", axis, index) for index in range(size))

    def with_whole(self, described: Described, like: Labels | None) -> Described:
        """Describe a value that is moved as a whole: it goes with the fields with which what is moved goes."""
        if isinstance(described, tuple):
            return tuple(part and replace(part, whole=like.whole) for part in described) if like else described
        return replace(described, whole=like.whole) if described is not None and like is not None else described

    def goes_without(self, node: fx.Node, operand: Any) -> None:
        """State that where all of an operand goes, the operator does without it."""
        if isinstance(operand, fx.Node):
            self._optional.add((node, operand))

    def can_go_without(self, node: fx.Node, operand: fx.Node) -> bool:
        """Tell whether a rule said so."""
        return (node, operand) in self._optional

    def of_fields(self, node: fx.Node, labels: Labels) -> Labels:
        """Give the fields whose ids are looked up their labels: of all that is looked up, or of an index of an axis."""
        numbers = self.fields.lookups.get(node.name) if self.fields is not None else None
        if numbers is None:
            return labels
        named = self.sets.sovereign_singletons((FIELD, number, 0) for number in numbers.flatten().tolist())
        if bool((numbers == numbers.flatten()[0]).all()):
            return replace(labels, whole=self.sets.any_of((labels.whole, int(named[0]))))
        named = named.reshape(numbers.shape)
        for axis in range(numbers.ndim if node.target is aten.embedding.default else 0):
            along = named.movedim(axis, 0).reshape(numbers.shape[axis], -1)
            if bool((along == along[:, :1]).all()):
                removes, zeroes = list(labels.removes), list(labels.zeroes)
                for side in (removes, zeroes):
                    side[axis + 1] = self.sets.union(side[axis + 1], along[:, 0])
                return replace(labels, removes=tuple(removes), zeroes=tuple(zeroes), steady=())
        self.freeze(node, named, "its ids are looked up in a tensor of which no axis tells fields apart")
        return labels

    def fixed(self, node: fx.Node) -> tuple[bool, ...]:
        """Tell for each axis of a node's value whether its size varies with the request."""
        return tuple(not isinstance(size, int) for size in node.meta["val"].shape)

    def fresh(self, node: fx.Node, axis: int, size: int) -> Tensor:
        """Return new labels for an axis that takes whatever size its consumers need."""
        return self.sets.singletons((node.name, axis, index) for index in range(size))

    def regular(self, node: fx.Node, traced: Tensor, removes: Tensor, zeroes: Tensor, steady: Tensor) -> Labels:
        """Return what is known by element by axis; see `labels.from_elements`."""

        def layout(candidates: Sequence[int]) -> int:
            axis = self._wanted.get(node.name, candidates[0])
            others = tuple(other for other in candidates if other != axis)
            self.layouts.setdefault(node.name, Layout(axis, others, removes))
            return axis

        fixed = [is_batch(size) for size in traced.shape]
        reason = Reason(f"{node.name} mixes it with parts that keep their width", source_of(node))
        return from_elements(self.sets, removes, zeroes, steady, fixed, reason, layout)

    def equate(self, node: fx.Node, left: Tensor, right: Tensor, because: str) -> None:
        """State that both sides are removed together."""
        self.sets.equate(left, right, Reason(because, source_of(node)))

    def freeze(self, node: fx.Node, ids: Tensor, because: str) -> None:
        """State that nothing in `ids` can be removed."""
        self.sets.freeze(ids, Reason(because, source_of(node)))

    def require_zero(self, node: fx.Node, removes: Tensor, zeroes: Tensor, because: str) -> None:
        """Freeze what a reduction would still count although it is masked, as far as this pass knows."""
        self.sets.doubt(self.sets.without(removes, zeroes), Reason(because, source_of(node)))

    def look_up(self, node: fx.Node, rows: Tensor, ids: Any) -> None:
        """State that `rows` are looked up by `ids`: they stay, and what they are the rows of is a table."""
        self.freeze(node, rows, "its rows are looked up by id")
        if not _of_the_request(ids):
            return
        for label in {label for set_id in distinct(rows) for label in self.sets.labels_in(set_id)}:
            name, axis, _ = cast(tuple[str, int, int], self.sets.key(label))
            if axis == 0 and name in self._parameters:
                self.tables.add(name)

    def _apply_rule(self, node: fx.Node) -> Described:
        value = self.env[node]
        known = RULES.get(node.target)
        inputs = [self.described.get(source) for source in node.all_input_nodes]
        if known is None:
            for described in inputs:
                self._freeze_all(node, described, f"{operator_name(node)} has no rule")
            return self.nothing(value)
        if _is_scalar(value) and all(isinstance(labels, Labels) and not labels.shape for labels in inputs):
            return self.nothing(value)
        return known(self, node)

    def _constant_where_inputs_are(self, node: fx.Node, described: Described) -> Described:
        """What is computed from parameters alone is the same for every request."""
        inputs = [self.described.get(source) for source in node.all_input_nodes]
        varying = (isinstance(d, tuple) or (d is not None and not d.constant) for d in inputs)
        if not isinstance(described, Labels) or any(varying):
            return described
        return Labels(described.removes, described.zeroes, constant=True)

    def _lift(self, described: Described) -> Described:
        """A field with which every index of some axis goes, and is zero, goes with the whole value instead."""
        if isinstance(described, tuple):
            return tuple(cast(Labels | None, self._lift(part)) for part in described)
        if described is None or not self.sets.has_sovereign:
            return described
        found = [described.whole]
        for removes, zeroes in zip(described.removes, described.zeroes, strict=True):
            if len(removes) and bool(removes.any()) and bool(zeroes.any()):
                both = self.sets.common(self.sets.common_along(removes, 0), self.sets.common_along(zeroes, 0))
                found.append(int(self.sets.sovereign_in(both)))
        whole = self.sets.any_of(found)
        if whole == EMPTY:
            return described
        lifted = torch.tensor(whole)
        return replace(described.map(lambda axes: [self.sets.without(axis, lifted) for axis in axes]), whole=whole)

    def _keep_what_would_leave_nothing(self, node: fx.Node) -> None:
        """A channel on which every index of an axis depends cannot go: the value would have no elements."""
        described = self.described[node]
        for labels in described if isinstance(described, tuple) else (described,):
            for axis in labels.removes if labels is not None else ():
                if len(axis) and bool(axis.any()):
                    self.freeze(node, self.sets.common_along(axis, 0), "nothing would be left of its axis")

    def _freeze_all(self, node: fx.Node, described: Described, because: str) -> None:
        for labels in described if isinstance(described, tuple) else (described,):
            for axis in labels.removes if labels is not None else ():
                self.freeze(node, axis, because)

    def _freeze_outputs(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self._freeze_all(node, self.described.get(source), "the model returns it")

    def _parameter(self, node: fx.Node, value: Tensor) -> Labels:
        lookups = [ids for user in node.users if (ids := _ids_of_lookup(user, node)) is not None]
        removes = []
        for axis, size in enumerate(value.shape):
            counts_rows = size > WIDEST_AXIS or (bool(lookups) and axis == 0)
            removes.append(unlabelled(size) if counts_rows else self.fresh(node, axis, size))
        if any(_of_the_request(ids) for ids in lookups):
            self.tables.add(node.name)
        if value.ndim > 1:
            self._parameters.add(node.name)
        labels = Labels(tuple(removes), tuple(removes), constant=True)
        # Masking zeroes parameters, not buffers.
        return labels if isinstance(value, torch.nn.Parameter) else labels.without_zeroes()


def _is_scalar(value: Any) -> bool:
    """A tensor without axes has nothing to remove, whatever axis an operator was asked to work along."""
    return isinstance(value, Tensor) and value.ndim == 0


def is_batch(size: Any) -> bool:
    """Tell whether a traced size is the batch itself, and not a product with it, which may shrink with its factors."""
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_Symbol)


def _ids_of_lookup(user: fx.Node, table: fx.Node) -> Any:
    """The ids by which `user` takes rows of `table`; None if it does something else."""
    if user.target in _LOOKUPS and user.args[0] is table:
        return user.args[1]
    if user.target is aten.index_select.default and user.args[:2] == (table, 0):
        return user.args[2]
    if user.target is aten.index.Tensor and user.args[0] is table:
        return user.args[1][0]  # type: ignore[index]
    return None


def _of_the_request(ids: Any) -> bool:
    """Whether ids come from an input, and not, like positions, from a constant."""
    pending, seen = [ids], set()
    while pending:
        node = pending.pop()
        if not isinstance(node, fx.Node) or node in seen or not isinstance(node.meta.get("val"), Tensor):
            continue
        if node.op == "placeholder":
            return True
        seen.add(node)
        pending.extend(node.all_input_nodes)
    return False


def operator_name(node: fx.Node) -> str:
    """Return how an operator is called in a sentence, for example `aten.linear`."""
    return str(node.target).removesuffix(".default") if node.op == "call_function" else node.op


def source_of(node: fx.Node) -> str:
    """Return where a node was written: `file, line N` of the user's source, else the submodule, else nothing."""
    trace: Sequence[str] = (node.meta.get("stack_trace") or "").splitlines()
    places = [line.strip() for line in trace if line.strip().startswith("File ")]
    written_by_user = [place for place in places if "/torch/" not in place]
    if written_by_user:
        return written_by_user[-1].removeprefix("File ").rpartition(", in ")[0]
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return modules[-1] if modules else ""
