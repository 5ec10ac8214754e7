"""Origins of the ids of lookups: which elements of which inputs, through which data movements and arithmetic.

The graph is run once on an example request. Each integer or float tensor is accompanied by a tensor of the same shape
that holds, for each element, the input element from which it was computed and the steps with constants between them.
Operators that only move data are run on that tensor unchanged.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.id_arithmetic import StepChains, StepKind
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

aten = torch.ops.aten

_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.floor.default, aten.round.default})
_ARITHMETIC: Mapping[Any, Any] = {
    aten.add.Tensor: "add",
    aten.add.Scalar: "add",
    aten.sub.Tensor: "subtract",
    aten.sub.Scalar: "subtract",
    aten.rsub.Scalar: "subtract from",
    aten.rsub.Tensor: "subtract from",
    aten.mul.Tensor: "multiply",
    aten.mul.Scalar: "multiply",
    aten.div.Tensor: "divide",
    aten.div.Scalar: "divide",
    aten.div.Tensor_mode: "divide",
    aten.div.Scalar_mode: "divide",
    aten.floor_divide.default: "floor divide",
    aten.floor_divide.Scalar: "floor divide",
    aten.remainder.Tensor: "remainder",
    aten.remainder.Scalar: "remainder",
    aten.fmod.Tensor: "remainder",
    aten.fmod.Scalar: "remainder",
    aten.bitwise_right_shift.Tensor_Scalar: "shift right",
    aten.__rshift__.Scalar: "shift right",
    aten.clamp.default: "clamp",
    aten.clamp_min.default: "clamp",
    aten.clamp_max.default: "clamp",
}
_PICKS = frozenset({aten.index.Tensor, aten.index_select.default})
_OF_THE_SHAPE = frozenset(
    {
        aten.sym_size.int,
        aten.new_zeros.default,
        aten.new_ones.default,
        aten.new_full.default,
        aten.zeros_like.default,
        aten.ones_like.default,
        aten.full_like.default,
    }
)
_LOOKUPS = frozenset({aten.embedding.default, aten.embedding_bag.padding_idx, aten.embedding_bag.default})


@dataclass(frozen=True)
class ElementOrigin:
    """Origin of each element: `element` is its number among all inputs' elements of one row, `steps` the chain between."""

    element: Tensor
    steps: Tensor


@dataclass(frozen=True)
class IdLookup:
    """A lookup: `node` selects among `rows` rows by ids that come from `origin`."""

    node: fx.Node
    ids: fx.Node
    rows: int
    origin: ElementOrigin


@dataclass(frozen=True)
class RequestDataflow:
    """Uses of the elements of a request.

    `elements[input]` are the numbers of a placeholder's elements; `lookups` are the nodes in which elements select rows;
    `readers[node]` are the numbers of the elements that a node uses otherwise; `chains` has the steps of origins.
    """

    elements: Mapping[str, range]
    lookups: Sequence[IdLookup]
    readers: Mapping[fx.Node, frozenset[int]]
    chains: StepChains


def trace_dataflow(module: fx.GraphModule, example: Sequence[Tensor]) -> RequestDataflow:
    """Trace the elements of a valid request through a canonical graph."""
    tracer = _Tracer(module)
    with torch.no_grad():
        tracer.run(*example)
    return RequestDataflow(tracer.elements, tracer.lookups, tracer.readers, tracer.chains)


class _Tracer(fx.Interpreter):
    """An interpreter that propagates an origin along with each value: it runs the same operators on both."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.elements: dict[str, range] = {}
        self.lookups: list[IdLookup] = []
        self.readers: dict[fx.Node, frozenset[int]] = {}
        self.chains = StepChains()
        self._of_request: set[fx.Node] = set()  # nodes whose values depend on those of the request
        self._origins: dict[fx.Node, ElementOrigin] = {}
        self._parts: dict[fx.Node, list[ElementOrigin]] = {}  # of operators with several outputs

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        tracked = [source for source in n.all_input_nodes if source in self._origins]
        if n.op == "placeholder" or (n.target not in _OF_THE_SHAPE and self._of_request & set(n.all_input_nodes)):
            self._of_request.add(n)
        if n.op == "placeholder":
            self._number_elements(n, value)
        elif n.target is operator.getitem and arguments(n)[0] in self._parts:
            self._origins[n] = self._parts[arguments(n)[0]][arguments(n)[1]]
        elif tracked and n.target not in _OF_THE_SHAPE:
            self._follow(n, value, tracked)
        return value

    def _number_elements(self, node: fx.Node, value: Tensor) -> None:
        start = sum(len(numbers) for numbers in self.elements.values())
        self.elements[node.name] = range(start, start + value.shape[1:].numel())
        static = torch.tensor(self.elements[node.name], dtype=torch.int64)
        element = static.reshape(value.shape[1:]).expand(value.shape).clone()
        self._origins[node] = ElementOrigin(element, torch.zeros_like(element))

    def _follow(self, node: fx.Node, value: Any, tracked: list[fx.Node]) -> None:
        looked_up = self._lookup(node)
        if looked_up is None:
            moved = self._moved(node)
            if isinstance(moved, list):
                self._parts[node] = moved
            elif moved is not None and isinstance(value, Tensor) and moved.element.shape == value.shape:
                self._origins[node] = moved
            else:
                self._note_reading(node, tracked)
            return
        ids, rows = looked_up
        if ids in self._origins:
            self.lookups.append(IdLookup(node, ids, rows, self._origins[ids]))
        self._note_reading(node, [source for source in tracked if source is not ids])

    def _note_reading(self, node: fx.Node, sources: list[fx.Node]) -> None:
        if sources:
            read = (self._origins[source].element.unique().tolist() for source in sources)
            self.readers[node] = frozenset().union(*read)

    def _moved(self, node: fx.Node) -> ElementOrigin | list[ElementOrigin] | None:
        if node.target in _CASTS:
            return self._origins.get(arguments(node)[0])
        if node.target in _ARITHMETIC:
            return self._computed(node)
        if node.target in DATA_MOVEMENT_OPERATORS and self._moves_origins_alone(node):
            element, steps = (self._run_on(node, part) for part in ("element", "steps"))
            if isinstance(element, Tensor):
                return ElementOrigin(element, steps)
            return [ElementOrigin(*part) for part in zip(element, steps, strict=True)]
        return None

    def _moves_origins_alone(self, node: fx.Node) -> bool:
        """Return whether all values that are moved come from inputs, and all other operands do not."""
        moved = set(_nodes(arguments(node)[0]))
        return moved <= self._origins.keys() and not (set(node.all_input_nodes) - moved) & self._origins.keys()

    def _run_on(self, node: fx.Node, attribute: str) -> Any:
        moved = fx.node.map_arg(arguments(node)[0], lambda n: getattr(self._origins[n], attribute))
        rest, kwargs = fx.node.map_arg((arguments(node)[1:], dict(node.kwargs)), lambda n: self.env[n])
        return node.target(moved, *rest, **kwargs)  # type: ignore[operator]

    def _computed(self, node: fx.Node) -> ElementOrigin | None:
        """Return the origin of arithmetic with constants, which may differ between elements."""
        operands = arguments(node)
        moved = [operand for operand in operands[:2] if isinstance(operand, fx.Node) and operand in self._origins]
        if len(moved) != 1 or any(
            operand in self._of_request for operand in node.all_input_nodes if operand is not moved[0]
        ):
            return None
        origin, steps = self._origins[moved[0]], self._steps(node, operands[0] is moved[0])
        if steps is None:
            return None
        element, numbers = origin.element, origin.steps
        for kind, constant in steps:
            numbers = self.chains.extend(numbers, kind, constant)
        return ElementOrigin(element.expand(numbers.shape), numbers)

    def _steps(self, node: fx.Node, input_first: bool) -> list[tuple[StepKind, Tensor]] | None:
        """Return the steps of an operator on one traced operand and constants, or None for an operator without steps."""
        operands = [self.env[x] if isinstance(x, fx.Node) else x for x in arguments(node)]
        kind = _ARITHMETIC[node.target]
        if kind == "clamp":
            low, high = (argument(node, name) for name in ("min", "max"))
            ends: list[tuple[StepKind, Any]] = [("at least", low), ("at most", high)]
            return [(end, torch.as_tensor(self.env.get(limit, limit))) for end, limit in ends if limit is not None]
        if argument(node, "alpha") not in (None, 1):
            return None
        constant = torch.as_tensor(operands[1] if input_first else operands[0])
        if not bool(constant.isfinite().all()):
            return None
        if kind in ("subtract", "subtract from"):
            minuend = input_first is (kind == "subtract")
            return [("add", -constant)] if minuend else [("multiply", torch.tensor(-1)), ("add", constant)]
        traced = self.env[arguments(node)[0 if input_first else 1]]
        if traced.is_floating_point() and kind != "add":
            return None  # a fraction is not an id
        if kind == "shift right":
            return [("floor divide", 2**constant)] if input_first else None
        if kind in ("add", "multiply"):
            return [(kind, constant)]
        if not input_first:
            return None
        if kind == "divide" and argument(node, "rounding_mode") is not None:
            return [("floor divide", constant)]
        return [(kind, constant)]

    def _lookup(self, node: fx.Node) -> tuple[fx.Node, int] | None:
        """Return the ids of an operator that selects rows by id, and the number of rows."""
        if node.op != "call_function":
            return None
        if node.target in _LOOKUPS:
            table, ids = arguments(node)[:2]
            return ids, len(self.env[table])
        if node.target is aten.gather.default:  # by position: the last item of a history whose length is an input
            source, axis, ids = arguments(node)[:3]
            return ids, self.env[source].shape[axis]
        if node.target not in _PICKS or arguments(node)[0] in self._origins:
            return None
        source, *indices = arguments(node)
        picks = {axis: index for axis, index in enumerate(indices[0]) if index is not None} if len(indices) == 1 else {}
        picks = picks or {indices[0]: indices[1]}
        axis, ids = next(iter(picks.items()))
        return (ids, self.env[source].shape[axis]) if len(picks) == 1 else None


def _nodes(argument: Any) -> list[fx.Node]:
    nodes: list[fx.Node] = []
    fx.node.map_arg(argument, nodes.append)
    return nodes
