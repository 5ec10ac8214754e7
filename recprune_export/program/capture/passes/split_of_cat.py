"""Removal of a `split` that takes apart what a `cat` joined, where the sizes of the parts come from the request.

A KeyedJaggedTensor holds the ids of all keys in one tensor, and a model splits them by the sums of the lengths: numbers that
a graph reads from the request. Where the graph joins the ids of the keys itself, the parts are known.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import remove_dead_code
from recprune_export.program.nodes import argument, arguments

aten = torch.ops.aten

_SPLITS = frozenset({aten.split_with_sizes.default, aten.split.sizes})
_SLICES = frozenset({aten.slice.Tensor, aten.narrow.default})


def replace_split_of_cat(module: fx.GraphModule, requests: Sequence[Sequence[Tensor]]) -> bool:
    """Replace parts of a `cat` of inputs, taken by sizes that the request holds, by the inputs; return whether there were any.

    `requests` are tensors that the graph takes; the ends of a part have to be those of an input in each of them. New nodes
    have no shapes: `recapture` the graph.
    """
    candidates = [node for node in module.graph.nodes if _is_part(node)]
    if not candidates:
        return False
    runs = [_Values(module).run_on(request) for request in requests]
    changed = False
    for node in candidates:
        parts = _list_parts(_source(node))
        bounds = [_bounds(node, values) for values in runs]
        for number, part in enumerate(parts):
            if all(bound == _place(parts, number, values) for bound, values in zip(bounds, runs, strict=True)):
                node.replace_all_uses_with(part)
                changed = True
                break
    remove_dead_code(module)
    return changed


def _source(node: fx.Node) -> fx.Node:
    source: fx.Node = arguments(arguments(node)[0])[0] if node.target not in _SLICES else arguments(node)[0]
    return source


def _is_part(node: fx.Node) -> bool:
    if node.target in _SLICES:
        dim, source = argument(node, "dim"), arguments(node)[0]
        ends = [a for a in arguments(node)[2:] if isinstance(a, fx.Node)]
    elif node.op == "call_function" and node.args and getattr(node.args[0], "target", None) in _SPLITS:
        split = node.args[0]
        assert isinstance(split, fx.Node)
        dim, source = argument(split, "dim"), arguments(split)[0]
        ends = [a for a in arguments(split)[1] if isinstance(a, fx.Node)]
    else:
        return False
    return dim == 0 and bool(ends) and isinstance(source, fx.Node) and bool(_list_parts(source))


def _list_parts(source: fx.Node) -> list[fx.Node]:
    """Return the inputs that a node joins on axis 0, or the one that it is; none for other nodes."""
    if source.op == "placeholder":
        return [source]
    if source.target is not aten.cat.default or (arguments(source)[1:] or (0,))[0] != 0:
        return []
    parts = list(arguments(source)[0])
    return parts if all(part.op == "placeholder" for part in parts) else []


class _Values(fx.Interpreter):
    """A run of a graph that keeps the value of every node."""

    def run_on(self, request: Sequence[Tensor]) -> dict[fx.Node, Any]:
        values: dict[fx.Node, Any] = {}
        self._kept = values
        with torch.no_grad():
            self.run(*request)
        return values

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._kept[n] = len(value) if isinstance(value, Tensor) and value.ndim else value
        return value


def _place(parts: Sequence[fx.Node], number: int, values: dict[fx.Node, Any]) -> tuple[int, int]:
    sizes = [values[part] for part in parts]
    return sum(sizes[:number]), sum(sizes[: number + 1])


def _bounds(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[int, int]:
    def known(value: Any) -> int:
        return int(values[value] if isinstance(value, fx.Node) else value)

    if node.target in _SLICES:
        total = values[arguments(node)[0]]
        start = known(argument(node, "start") or 0)
        if node.target is aten.narrow.default:
            return start, start + known(argument(node, "length"))
        end = argument(node, "end")
        return slice(start, None if end is None else known(end)).indices(total)[:2]
    split, number = node.args
    assert isinstance(split, fx.Node) and isinstance(number, int)
    sizes = [known(size) for size in arguments(split)[1]]
    return sum(sizes[:number]), sum(sizes[: number + 1])
