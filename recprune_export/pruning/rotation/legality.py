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

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.contractions import CONTRACTIONS, Contraction, contraction_of
from recprune_export.channels.groups import Group, slice_positions
from recprune_export.channels.walk import source_of
from recprune_export.program.canonical import tensor_at
from recprune_export.program.movement import MOVEMENTS
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.program import Program
from recprune_export.pruning.rotation.sides import Sides

aten = torch.ops.aten

Form = str  # "vector", "quadratic", "uniform"
Rule = Callable[["Tracing", fx.Node], None]
_RULES: dict[Any, Rule] = {}
_FINE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Rotatable:
    """A group whose channels may be transformed.

    `sides[tensor, axis]` is +1 where the axis is multiplied by A and -1 where by A⁻ᵀ; with `orthogonal` they are the same.
    `sources` are the nodes that first put out values along the axis, each with the axis.
    """

    group: str
    orthogonal: bool
    sides: Mapping[tuple[str, int], int]
    sources: tuple[tuple[str, int, int], ...]  # node, axis, side


@dataclass(frozen=True)
class Diagonal:
    """Weights that multiply the channels of an elementwise product before they are summed, as in GMF.

    They can be moved into one of the factors: `scaled` are the axes of that side, `weight` the matrix 1×K, `axis` its K.
    """

    weight: str
    axis: int
    scaled: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Legality:
    """The groups that may be rotated, for each of the others the reason in the user's words.

    `diagonals` names among those the ones that may be rotated once a diagonal has been moved (`loosen`).
    """

    rotatable: Mapping[str, Rotatable]
    reasons: Mapping[str, str]
    diagonals: Mapping[str, Diagonal]


def find_rotatable(program: Program, analysis: Analysis) -> Legality:
    """Decide for each group of `analysis` whether it may be rotated. Time is linear in the size of the graph."""
    tracing = Tracing(program, analysis)
    for node in program.module.graph.nodes:
        tracing.visit(node)
    return tracing.result()


def _traces(*operators: Any) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, function))
        return function

    return register


class Tracing:
    """A walk over the graph. What is known so far: the form of each group's axis in each value, the sides, and what was ruled out."""

    def __init__(self, program: Program, analysis: Analysis) -> None:
        self._program, self._analysis = program, analysis
        self._groups: tuple[Group, ...] = analysis.groups
        self._group_of = {c.identity: number for number, g in enumerate(analysis.groups) for c in g.channels}
        self._forms: dict[tuple[fx.Node, int], Form] = {}
        self._axes: dict[fx.Node, dict[int, int]] = {}
        self._sources: list[tuple[fx.Node, int, int]] = []
        self._meetings: dict[int, int] = {}
        self._equal_weights: set[tuple[int, fx.Node]] = set()
        self._diagonals: dict[int, fx.Node] = {}
        self.sides = Sides()
        self.ruled_out: dict[int, str] = {}

    def visit(self, node: fx.Node) -> None:
        """Find out what an operator does to the axes of groups on it and on its operands."""
        if node.op == "output":
            return
        axes = self.axes(node)
        if node.op == "get_attr":
            for group in axes:
                self.put(node, group, "vector")
            return
        if node.op != "call_function":
            return
        touched = set(axes)
        for source in node.all_input_nodes:
            touched |= set(self.axes(source))
        if not touched - self.ruled_out.keys():
            return
        _RULES.get(node.target, _neither)(self, node)
        for group in axes:
            if (node, group) not in self._forms:
                self.rule_out(group, node, "does not treat all channels alike")

    def axes(self, node: fx.Node) -> dict[int, int]:
        """Return the groups that a value carries, each with the one axis on which it lies whole."""
        if node not in self._axes:
            self._axes[node], broken = self._find_axes(node)
            for group, because in broken.items():
                self.rule_out(group, node, because)
        return self._axes[node]

    def _find_axes(self, node: fx.Node) -> tuple[dict[int, int], dict[int, str]]:
        removed_by: Any = self._analysis.removed_by.get(node.name, ())
        if not isinstance(node.meta.get("val"), Tensor):
            return {}, {}  # of several outputs each has a getitem of its own
        found: dict[int, int] = {}
        broken: dict[int, str] = {}
        for axis, sets in enumerate(removed_by):
            counts: dict[int, dict[int, int]] = {}
            for channels in sets or ():
                for channel in channels & self._group_of.keys():
                    own = counts.setdefault(self._group_of[channel], {})
                    own[channel] = own.get(channel, 0) + 1
            for group, numbers in counts.items():
                whole = len(numbers) == self._groups[group].width and len(set(numbers.values())) == 1
                if group in found or not whole:
                    broken[group] = "has it on two axes" if whole else "takes its channels apart"
                found[group] = axis
        return found, broken

    def form(self, node: Any, group: int) -> Form | None:
        """Return the form of a group's axis in a value; None where the value does not carry it, or not in a known one."""
        return self._forms.get((node, group)) if isinstance(node, fx.Node) else None

    def carries(self, value: Any, group: int) -> bool:
        """Tell whether a value has the group's channels on an axis."""
        return isinstance(value, fx.Node) and group in self.axes(value)

    def put(self, node: fx.Node, group: int, form: Form) -> None:
        """State the form of a group's axis in a value."""
        self._forms[node, group] = form

    def start(self, node: fx.Node, group: int, weight: fx.Node) -> None:
        """State that values along the axis come from a weight: its rows, or its columns that are looked up."""
        if self.form(weight, group) != "vector":
            return self.rule_out(group, node, "reads it in a form that is not linear")
        self.put(node, group, "vector")
        self.sides.same((node, group), (weight, group))
        self._sources.append((node, group, self.axes(node)[group]))
        return None

    def follow(self, node: fx.Node, group: int, sources: Iterable[fx.Node]) -> None:
        """State that a value is as its sources are along the axis."""
        carriers = list(sources)
        forms = {self.form(source, group) for source in carriers}
        if len(forms) != 1 or None in forms:
            return self.rule_out(group, node, "adds what is not linear in it")
        for source in carriers:
            self.sides.same((node, group), (source, group))
        form = forms.pop()
        assert form is not None
        self.put(node, group, form)
        return None

    def meet(self, node: fx.Node, group: int, left: fx.Node, right: fx.Node) -> None:
        """State that two values meet in an inner product over the axis."""
        if {self.form(left, group), self.form(right, group)} != {"vector"}:
            return self.rule_out(group, node, "multiplies what is not linear in it")
        self.sides.opposite((left, group), (right, group))
        self._meetings[group] = self._meetings.get(group, 0) + 1
        return None

    def weigh(self, node: fx.Node, group: int, weight: fx.Node, tensor: Tensor) -> None:
        """State that the channels of a product are summed with the weights of `tensor`, channels on its last axis."""
        if self._meetings.get(group, 0) != 1 or len(weight.users) > 1:
            return self.rule_out(group, node, "weighs its channels by constants")
        if bool((tensor == tensor[..., :1]).all()):
            self._equal_weights.add((group, weight))
        elif tensor.numel() == tensor.shape[-1]:
            self._diagonals[group] = weight
        else:
            self.rule_out(group, node, "weighs its channels in several ways")
        return None

    def rule_out(self, group: int, node: fx.Node, because: str) -> None:
        """State that a group cannot be rotated."""
        place = f" ({where})" if (where := source_of(node)) else ""
        self.ruled_out.setdefault(group, f"{node.name} {because}{place}")

    def block(self, weight: fx.Node, group: int) -> Tensor:
        """Return the part of a weight that belongs to a group's channels, these on the last axis."""
        axis = self.axes(weight)[group]
        tensor = tensor_at(self._program.module, str(weight.target)).detach().movedim(axis, -1)
        places = slice_positions(self._groups[group], str(weight.target), axis)
        return torch.stack([tensor[..., own] for own in places])

    def result(self) -> Legality:
        """Gather what was found."""
        nodes = {str(n.target): n for n, _ in self._forms if n.op == "get_attr"}
        rotatable: dict[str, Rotatable] = {}
        diagonals: dict[str, Diagonal] = {}
        for number, group in enumerate(self._groups):
            missing = [tensor for tensor, _ in group.axes() if tensor not in nodes]
            if number not in self.ruled_out and (missing or group.width < 2):
                self.ruled_out[number] = "there is one channel only" if not missing else f"{missing[0]} is not read"
            coarse = [t for t in nodes if t in dict(group.axes()) and nodes[t].meta["val"].dtype not in _FINE]
            if coarse:
                self.ruled_out.setdefault(number, f"{coarse[0]} is stored in too few bits to be rotated")
            if number in self.ruled_out:
                continue
            found = self._rotatable(number, group, nodes)
            weight = self._diagonals.get(number)
            if weight is None:
                rotatable[group.name] = found
            else:
                self.ruled_out[number] = f"{weight.target} weighs its channels"
                scaled = tuple(key for key, side in found.sides.items() if side < 0)
                if not found.orthogonal and scaled:
                    diagonals[group.name] = Diagonal(str(weight.target), self.axes(weight)[number], scaled)
        names = {group.name: self.ruled_out[n] for n, group in enumerate(self._groups) if n in self.ruled_out}
        return Legality(rotatable, names, diagonals)

    def _rotatable(self, number: int, group: Group, nodes: Mapping[str, fx.Node]) -> Rotatable:
        alike = {w for own, w in self._equal_weights if own == number} | {self._diagonals.get(number)}
        axes = [(tensor, axis) for tensor, axis in group.axes() if nodes[tensor] not in alike]
        first = (nodes[axes[0][0]], number)
        sides = {(tensor, axis): self.sides.between(first, (nodes[tensor], number)) for tensor, axis in axes}
        own_sources = [(node, axis) for node, own, axis in self._sources if own == number]
        sources = tuple(
            (node.name, axis, self.sides.between(first, (node, number)) or 1)
            for node, axis in own_sources or self._first_values(number)
        )
        orthogonal = self.sides.contradicts(first) or None in sides.values() or len(axes) != len(dict(axes))
        return Rotatable(group.name, bool(orthogonal), {key: side or 1 for key, side in sides.items()}, sources)

    def _first_values(self, number: int) -> list[tuple[fx.Node, int]]:
        """Where a group is read from its weights by other means than layers and lookups: what was made of them first."""
        return [
            (node, self.axes(node)[number])
            for node, own in self._forms
            if own == number and node.op == "call_function"
            if not any(source.op == "call_function" and self.carries(source, number) for source in _tensors(node))
        ]


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor | tuple | list)]


def _neither(tracing: Tracing, node: fx.Node) -> None:
    for source in (node, *node.all_input_nodes):
        for group in tracing.axes(source):
            tracing.rule_out(group, node, "does not treat all directions alike")


def _pass_on(tracing: Tracing, node: fx.Node) -> None:
    """What moves values, or scales them all alike."""
    for group in tracing.axes(node):
        carriers = [source for source in _tensors(node) if tracing.carries(source, group)]
        if len(carriers) == 1 and carriers[0].op == "get_attr" and node.target in _BY_INDEX:
            tracing.start(node, group, carriers[0])  # rows of a table that is no `nn.Embedding`
        elif carriers:
            tracing.follow(node, group, carriers)
        elif _is_zero(node):
            tracing.put(node, group, "vector")


def _is_zero(node: fx.Node) -> bool:
    """Zeros that were made in the graph, or repeated from such."""
    while node.target in MOVEMENTS and isinstance(arguments(node)[0], fx.Node):
        node = arguments(node)[0]
    return node.target in _ZEROS


_BY_INDEX = frozenset({aten.index.Tensor, aten.index_select.default})
_ZEROS = frozenset({aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default})
_SCALING = (
    aten._to_copy.default,
    aten.div.Scalar,
    aten.dropout.default,
    aten.mul.Scalar,
    aten.neg.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
)
_traces(*MOVEMENTS, *_SCALING, *_ZEROS)(_pass_on)


@_traces(aten.expand.default, aten.expand_as.default, aten.repeat.default, aten.tile.default)
def _stretch(tracing: Tracing, node: fx.Node) -> None:
    x = arguments(node)[0]
    for group in tracing.axes(node):
        if tracing.carries(x, group):
            tracing.follow(node, group, [x])
        else:
            tracing.put(node, group, "vector" if _is_zero(node) else "uniform")


def _getitem(tracing: Tracing, node: fx.Node) -> None:
    """One output of an operator that has several: as what was split."""
    (source,) = node.all_input_nodes
    origins = [n for n in source.all_input_nodes if isinstance(n, fx.Node)]
    for group in tracing.axes(node):
        tracing.follow(node, group, [o for o in origins if tracing.carries(o, group)])


_traces(operator.getitem)(_getitem)


@_traces(aten.gather.default, aten.take_along_dim.default)
def _gather(tracing: Tracing, node: fx.Node) -> None:
    source = arguments(node)[0]
    for group in tracing.axes(node):
        tracing.follow(node, group, [source] if tracing.carries(source, group) else [])


@_traces(aten.embedding.default)
def _look_up(tracing: Tracing, node: fx.Node) -> None:
    table, ids = arguments(node)[:2]
    for group in tracing.axes(node):
        if tracing.carries(ids, group):
            tracing.rule_out(group, node, "looks up by it")
        else:
            tracing.start(node, group, table)


@_traces(aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, aten.index_add.default, aten.scatter_add.default)
def _add(tracing: Tracing, node: fx.Node) -> None:
    """Whatever is added has to be transformed as well."""
    added = [a for a in arguments(node) if isinstance(a, fx.Node) and _is_number(a)] or [arguments(node)[0]]
    scalars = [a for a in arguments(node)[:2] if not isinstance(a, fx.Node) and a]
    for group in tracing.axes(node):
        others = [a for a in added if not tracing.carries(a, group)]
        if scalars or others:
            tracing.rule_out(group, node, "adds a constant to every channel")
        else:
            tracing.follow(node, group, added)


def _is_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


@_traces(aten.mul.Tensor)
def _multiply(tracing: Tracing, node: fx.Node) -> None:
    for group in tracing.axes(node):
        carriers = [a for a in arguments(node)[:2] if tracing.carries(a, group)]
        varying = [a for a in carriers if tracing.form(a, group) != "uniform"]
        if len(varying) == 2:
            _square(tracing, node, group, *varying)
        elif carriers:
            tracing.follow(node, group, varying or carriers)


def _square(tracing: Tracing, node: fx.Node, group: int, left: fx.Node, right: fx.Node) -> None:
    tracing.meet(node, group, left, right)
    if group not in tracing.ruled_out:
        tracing.put(node, group, "quadratic")


@_traces(aten.square.default, aten.pow.Tensor_Scalar)
def _power(tracing: Tracing, node: fx.Node) -> None:
    x = arguments(node)[0]
    squares = node.target is aten.square.default or arguments(node)[1] == 2
    for group in tracing.axes(node):
        if squares:
            _square(tracing, node, group, x, x)
        else:
            tracing.rule_out(group, node, "takes a power of each channel")


@_traces(aten.div.Tensor)
def _divide(tracing: Tracing, node: fx.Node) -> None:
    x, divisor = arguments(node)[:2]
    for group in tracing.axes(node):
        if tracing.carries(divisor, group) and tracing.form(divisor, group) != "uniform":
            tracing.rule_out(group, node, "divides channel by channel")
        else:
            tracing.follow(node, group, [x])


@_traces(aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default)
def _sum(tracing: Tracing, node: fx.Node) -> None:
    """Over another axis a sum is linear; over the group's own it makes an inner product of what is quadratic."""
    x = arguments(node)[0]
    for group in tracing.axes(x):
        if tracing.carries(node, group):
            tracing.follow(node, group, [x])
        elif tracing.form(x, group) != "quadratic":
            tracing.rule_out(group, node, "sums over its channels")


@_traces(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim)
def _norm(tracing: Tracing, node: fx.Node) -> None:
    x, *order = arguments(node)
    for group in tracing.axes(x):
        if tracing.carries(node, group) or (order and order[0] not in (None, 2)):
            tracing.rule_out(group, node, "takes a norm that depends on the directions")
        else:
            tracing.meet(node, group, x, x)


@_traces(aten.cosine_similarity.default)
def _cosine(tracing: Tracing, node: fx.Node) -> None:
    left, right = arguments(node)[:2]
    for group in {**tracing.axes(left), **tracing.axes(right)}:
        if tracing.carries(node, group):
            tracing.rule_out(group, node, "compares channel by channel")
            continue
        for one, other in ((left, right), (left, left), (right, right)):
            tracing.meet(node, group, one, other)


@_traces(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(tracing: Tracing, node: fx.Node) -> None:
    x, mask, value = arguments(node)[:3]
    for group in tracing.axes(node):
        if tracing.carries(mask, group) or value != 0:
            tracing.rule_out(group, node, "fills channels with a constant")
        else:
            tracing.follow(node, group, [x])


@_traces(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def _where(tracing: Tracing, node: fx.Node) -> None:
    condition, *branches = arguments(node)
    for group in tracing.axes(node):
        carriers = [b for b in branches if tracing.carries(b, group)]
        constants = [b for b in branches if not tracing.carries(b, group)]
        zero = all(
            (not isinstance(b, fx.Node) and b == 0) or (isinstance(b, fx.Node) and _is_zero(b)) for b in constants
        )
        if tracing.carries(condition, group) or not carriers or not zero:
            tracing.rule_out(group, node, "chooses channel by channel")
        else:
            tracing.follow(node, group, carriers)


@_traces(*CONTRACTIONS)
def _contract(tracing: Tracing, node: fx.Node) -> None:
    contraction = contraction_of(node)
    assert contraction is not None
    groups = set(tracing.axes(node))
    for _, source in contraction.operands:
        groups |= set(tracing.axes(source))
    for group in sorted(groups):
        _contract_group(tracing, node, contraction, group)


def _contract_group(tracing: Tracing, node: fx.Node, contraction: Contraction, group: int) -> None:
    carriers = [
        (letters[tracing.axes(x)[group]], x) for letters, x in contraction.operands if tracing.carries(x, group)
    ]
    for letter in dict.fromkeys(letter for letter, _ in carriers):
        values = [x for own, x in carriers if own == letter]
        if letter in contraction.output:
            _keep_letter(tracing, node, contraction, group, values)
        elif len(values) == 2:
            weights = [x for x in values if x.op == "get_attr"]
            if len(weights) == 1 and "quadratic" in {tracing.form(x, group) for x in values}:
                tracing.weigh(node, group, weights[0], tracing.block(weights[0], group))
            else:
                tracing.meet(node, group, *values)
        elif tracing.form(values[0], group) != "quadratic" or len(values) > 2:
            tracing.rule_out(group, node, "weighs its channels by constants")


def _keep_letter(tracing: Tracing, node: fx.Node, contraction: Contraction, group: int, values: list[fx.Node]) -> None:
    bias = contraction.bias
    if bias is not None and not tracing.carries(bias, group):
        tracing.rule_out(group, node, "adds a constant to every channel")
    elif len(values) == 2:
        _square(tracing, node, group, *values)
    elif len(values) == 1 and values[0].op == "get_attr":
        tracing.start(node, group, values[0])
        if bias is not None:
            tracing.sides.same((node, group), (bias, group))
    elif len(values) == 1:
        tracing.follow(node, group, values if bias is None else [*values, bias])
    else:
        tracing.rule_out(group, node, "multiplies more than two values")


@_traces(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding)
def _convolve(tracing: Tracing, node: fx.Node) -> None:
    x, weight, bias = (argument(node, name) for name in ("input", "weight", "bias"))
    for group in {**tracing.axes(x), **tracing.axes(node)}:
        if tracing.axes(x).get(group) == 1 and tracing.axes(weight).get(group) == 1 and argument(node, "groups") == 1:
            tracing.meet(node, group, x, weight)
        elif tracing.axes(weight).get(group) == 0 and not tracing.carries(x, group):
            tracing.start(node, group, weight)
            if bias is not None:
                tracing.sides.same((node, group), (bias, group))
        else:
            tracing.rule_out(group, node, "moves a kernel over it")


@_traces(aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def _recurrent(tracing: Tracing, node: fx.Node) -> None:
    """What a recurrent layer reads is linear; its own units are not."""
    x, weights = argument(node, "input"), argument(node, "params")
    first = {w: i for i, w in enumerate(weights)}
    directions = 2 if argument(node, "bidirectional") else 1
    per_direction = len(weights) // (argument(node, "num_layers") * directions)
    reading = [weights[direction * per_direction] for direction in range(directions)]
    for group in {g for source in (x, *first) for g in tracing.axes(source)}:
        if tracing.carries(x, group) and all(tracing.axes(w).get(group) == 1 for w in reading):
            for weight in reading:
                tracing.meet(node, group, x, weight)
        else:
            tracing.rule_out(group, node, "has it as its own units")


@_traces(aten.gru_cell.default, aten.lstm_cell.default, aten.rnn_tanh_cell.default)
def _recurrent_cell(tracing: Tracing, node: fx.Node) -> None:
    x, weight = argument(node, "input"), argument(node, "w_ih")
    for group in {g for source in node.all_input_nodes for g in tracing.axes(source)}:
        if tracing.carries(x, group) and tracing.axes(weight).get(group) == 1:
            tracing.meet(node, group, x, weight)
        else:
            tracing.rule_out(group, node, "has it as its own units")


@_traces(aten.scaled_dot_product_attention.default)
def _attend(tracing: Tracing, node: fx.Node) -> None:
    query, key, value = (argument(node, name) for name in ("query", "key", "value"))
    last = query.meta["val"].ndim - 1
    for group in {**tracing.axes(query), **tracing.axes(key), **tracing.axes(value)}:
        met = tracing.axes(query).get(group) == last and tracing.axes(key).get(group) == last
        if met:
            tracing.meet(node, group, query, key)
        if tracing.axes(value).get(group) == last and tracing.carries(node, group):
            tracing.follow(node, group, [value])
        elif not met:
            tracing.rule_out(group, node, "attends by it")


@_traces(aten.cumsum.default, aten.softmax.int)
def _along(tracing: Tracing, node: fx.Node) -> None:
    x = arguments(node)[0]
    over = arguments(node)[1] % x.meta["val"].ndim
    for group in tracing.axes(node):
        if node.target is aten.cumsum.default and tracing.axes(x).get(group) != over:
            tracing.follow(node, group, [x])
        else:
            tracing.rule_out(group, node, "does not treat all directions alike")
