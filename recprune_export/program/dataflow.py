"""Origins of the ids of lookups: which elements of which inputs, through which data movements and offsets.

The graph is run once on an example request. Each integer or float tensor is accompanied by a tensor of the same shape
that holds, for each element, the input element from which it was copied and the constant that was added to it.
Operators that only move data are run on that tensor unchanged.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import arguments
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

aten = torch.ops.aten

_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.floor.default, aten.round.default})
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
    """Origin of each element: `element` is its number among all inputs' elements of one row, `offset` is added."""

    element: Tensor
    offset: Tensor


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
    `readers[node]` are the numbers of the elements that a node uses otherwise.
    """

    elements: Mapping[str, range]
    lookups: Sequence[IdLookup]
    readers: Mapping[fx.Node, frozenset[int]]


def trace_dataflow(module: fx.GraphModule, example: Sequence[Tensor]) -> RequestDataflow:
    """Trace the elements of a valid request through a canonical graph."""
    tracer = _Tracer(module)
    with torch.no_grad():
        tracer.run(*example)
    return RequestDataflow(tracer.elements, tracer.lookups, tracer.readers)


class _Tracer(fx.Interpreter):
    """An interpreter that propagates an origin along with each value: it runs the same operators on both."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.elements: dict[str, range] = {}
        self.lookups: list[IdLookup] = []
        self.readers: dict[fx.Node, frozenset[int]] = {}
        self._origins: dict[fx.Node, ElementOrigin] = {}
        self._parts: dict[fx.Node, list[ElementOrigin]] = {}  # of operators with several outputs

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        tracked = [source for source in n.all_input_nodes if source in self._origins]
        if n.op == "placeholder":
            self._number_elements(n, value)
        elif n.target is operator.getitem and arguments(n)[0] in self._parts:
            self._origins[n] = self._parts[arguments(n)[0]][arguments(n)[1]]
        elif tracked and n.target not in _OF_THE_SHAPE:
            self._follow(n, value, tracked)
        return value

    def _number_elements(self, node: fx.Node, value: Tensor) -> None:
        start = sum(len(numbers) for numbers in self.elements.values())
        self.elements[node.name] = range(start, start + (value[0].numel() if value.ndim else 1))
        static = torch.tensor(self.elements[node.name], dtype=torch.int64)
        element = static.reshape(value.shape[1:]).expand(value.shape).clone()
        self._origins[node] = ElementOrigin(element, torch.zeros_like(element, dtype=torch.float64))

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
        if node.target in (aten.add.Tensor, aten.sub.Tensor):
            return self._shifted(node, -1 if node.target is aten.sub.Tensor else 1)
        if node.target in DATA_MOVEMENT_OPERATORS and self._moves_origins_alone(node):
            element, offset = (self._run_on(node, part) for part in ("element", "offset"))
            if isinstance(element, Tensor):
                return ElementOrigin(element, offset)
            return [ElementOrigin(*part) for part in zip(element, offset, strict=True)]
        return None

    def _moves_origins_alone(self, node: fx.Node) -> bool:
        """Return whether all values that are moved come from inputs, and all other operands do not."""
        moved = set(_nodes(arguments(node)[0]))
        return moved <= self._origins.keys() and not (set(node.all_input_nodes) - moved) & self._origins.keys()

    def _run_on(self, node: fx.Node, attribute: str) -> Any:
        moved = fx.node.map_arg(arguments(node)[0], lambda n: getattr(self._origins[n], attribute))
        rest, kwargs = fx.node.map_arg((arguments(node)[1:], dict(node.kwargs)), lambda n: self.env[n])
        return node.target(moved, *rest, **kwargs)  # type: ignore[operator]

    def _shifted(self, node: fx.Node, sign: int) -> ElementOrigin | None:
        left, right = arguments(node)[:2]
        origin = self._origins.get(left)
        other = self.env.get(right, right) if isinstance(right, fx.Node) else right
        if origin is None or right in self._origins or node.kwargs:
            return None
        offset: Tensor = origin.offset + sign * other
        return ElementOrigin(origin.element.expand(offset.shape), offset)

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
