"""Which ids are valid: read off the tables that the inputs look up.

The graph is run once on an example request. Beside each integer or float tensor goes a tensor of the same shape that says
from which element of which input each of its elements was taken, and what constant was added on the way. Operators
that only move data are run on that tensor as they are. Where it arrives at an embedding, the rows of the table bound
the id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.movement import MOVEMENTS
from recprune_export.program.nodes import arguments
from recprune_export.program.signature import IdRange

aten = torch.ops.aten

HIGHEST = 1 << 62
_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.floor.default, aten.round.default})
_PICKS = frozenset({aten.index.Tensor, aten.index_select.default})
_LOOKUPS = frozenset({aten.embedding.default, aten.embedding_bag.padding_idx, aten.embedding_bag.default})


@dataclass(frozen=True)
class _Origin:
    """Where each element comes from: `element` numbers all inputs' static elements (-1: computed), plus `offset`."""

    element: Tensor
    offset: Tensor


class _Tracer(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.origins: dict[fx.Node, _Origin] = {}
        self.first: dict[str, int] = {}
        self.width: dict[str, int] = {}
        self.ranges: dict[int, IdRange] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder":
            self._number_elements(n, value)
        elif n.op == "call_function" and any(source in self.origins for source in n.all_input_nodes):
            origin = self._follow(n)
            if origin is not None and isinstance(value, Tensor) and origin.element.shape == value.shape:
                self.origins[n] = origin
        return value

    def _number_elements(self, node: fx.Node, value: Tensor) -> None:
        start = sum(self.width.values())
        static = torch.arange(value[0].numel() if value.ndim else 1) + start
        self.first[node.name], self.width[node.name] = start, len(static)
        element = static.reshape(value.shape[1:]).expand(value.shape).clone()
        self.origins[node] = _Origin(element, torch.zeros_like(element, dtype=torch.float64))

    def _follow(self, node: fx.Node) -> _Origin | None:
        looked_up = self._lookup(node)
        if looked_up is not None:
            self._bound(*looked_up)
            return None
        if node.target in _CASTS:
            return self.origins.get(arguments(node)[0])
        if node.target in (aten.add.Tensor, aten.sub.Tensor):
            return self._shifted(node, -1 if node.target is aten.sub.Tensor else 1)
        if node.target in MOVEMENTS and self._moves_origins_alone(node):
            moved = [self._run_on(node, field) for field in ("element", "offset")]
            return _Origin(*moved) if all(isinstance(m, Tensor) for m in moved) else None
        return None

    def _moves_origins_alone(self, node: fx.Node) -> bool:
        """Everything that is moved was taken from inputs, and by what it is moved was not."""
        moved = set(_nodes(arguments(node)[0]))
        return moved <= self.origins.keys() and not (set(node.all_input_nodes) - moved) & self.origins.keys()

    def _run_on(self, node: fx.Node, field: str) -> Any:
        moved = fx.node.map_arg(arguments(node)[0], lambda n: getattr(self.origins[n], field))
        others, kwargs = fx.node.map_arg((arguments(node)[1:], dict(node.kwargs)), lambda n: self.env[n])
        return node.target(moved, *others, **kwargs)  # type: ignore[operator]

    def _shifted(self, node: fx.Node, sign: int) -> _Origin | None:
        left, right = arguments(node)[:2]
        origin = self.origins.get(left)
        other = self.env.get(right, right) if isinstance(right, fx.Node) else right
        if origin is None or right in self.origins or node.kwargs:
            return None
        offset: Tensor = origin.offset + sign * other
        return _Origin(origin.element.expand(offset.shape), offset)

    def _lookup(self, node: fx.Node) -> tuple[fx.Node, int] | None:
        """The ids, and the number of rows among which they choose, of an operator that takes rows by id."""
        if node.target in _LOOKUPS:
            table, ids = arguments(node)[:2]
            return ids, len(self.env[table])
        if node.target is aten.gather.default:  # a position: the last of a history, whose length is in the request
            source, axis, ids = arguments(node)[:3]
            return ids, self.env[source].shape[axis]
        if node.target not in _PICKS or arguments(node)[0] in self.origins:
            return None
        source, *given = arguments(node)
        picks = {axis: index for axis, index in enumerate(given[0]) if index is not None} if len(given) == 1 else {}
        picks = picks or {given[0]: given[1]}
        axis, ids = next(iter(picks.items()))
        return (ids, self.env[source].shape[axis]) if len(picks) == 1 else None

    def _bound(self, ids: fx.Node, rows: int) -> None:
        origin = self.origins.get(ids)
        if origin is None:
            return
        for element, offset in zip(origin.element.flatten().tolist(), origin.offset.flatten().tolist(), strict=True):
            low, high = self.ranges.get(element, (-HIGHEST, HIGHEST))
            # An offset that a table's fields have below it is no licence for negative ids.
            self.ranges[element] = (max(low, -int(offset), 0), min(high, rows - 1 - int(offset)))


def id_ranges(module: fx.GraphModule, example: Sequence[Tensor]) -> dict[str, tuple[IdRange | None, ...]]:
    """Return for each placeholder that holds ids its ranges, as `signature.Input.ids` has them.

    `example` is a valid request.
    """
    tracer = _Tracer(module)
    with torch.no_grad():
        tracer.run(*example)
    return {
        name: ranges
        for name, first in tracer.first.items()
        if (ranges := _per_column(tracer.ranges, first, tracer.width[name]))
    }


def _nodes(argument: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(argument, found.append)
    return found


def _per_column(ranges: dict[int, IdRange], first: int, width: int) -> tuple[IdRange | None, ...]:
    found = [ranges.get(first + position) for position in range(width)]
    if not any(found):
        return ()
    return (found[0],) if len(set(found)) == 1 else tuple(found)
