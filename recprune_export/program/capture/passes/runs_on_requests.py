"""Values of the nodes of a graph on a few requests, for passes that compare numbers that depend only on the request."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx


class RunsOnRequests:
    """The value of every node of a graph on each of `requests`, the tensors that it takes; including nodes created by `call`."""

    def __init__(self, module: fx.GraphModule, requests: Sequence[Sequence[Tensor]]) -> None:
        self._graph = module.graph
        self.runs: list[dict[fx.Node, Any]] = [_KeepValues(module).run_on(request) for request in requests]

    def call(self, operator: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call to the graph, at its insertion point."""
        node = self._graph.call_function(operator, args, kwargs)
        for values in self.runs:
            self._compute(node, values)
        return node

    def sizes(self, node: Any) -> list[int]:
        """Return the size of axis 0 in each run; -1 for anything but a tensor with axes."""
        values = [run.get(node) if isinstance(node, fx.Node) else None for run in self.runs]
        return [len(value) if isinstance(value, Tensor) and value.ndim else -1 for value in values]

    def numbers(self, value: Any) -> list[int]:
        """Return an integer, or the integer that a node computes, in each run."""
        return [int(run[value] if isinstance(value, fx.Node) else value) for run in self.runs]

    def equal(self, node: fx.Node, others: Sequence[fx.Node]) -> bool:
        """Return whether a tensor equals the concatenation of other tensors in each run."""
        return all(
            torch.equal(run[node].long(), torch.cat([run[other].long() for other in others])) for run in self.runs
        )

    def _compute(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda operand: values[operand])
        assert callable(node.target)
        with torch.no_grad():
            values[node] = node.target(*args, **kwargs)


class _KeepValues(fx.Interpreter):
    def run_on(self, request: Sequence[Tensor]) -> dict[fx.Node, Any]:
        self._kept: dict[fx.Node, Any] = {}
        self.garbage_collect_values = False
        with torch.no_grad():
            self.run(*request)
        return self._kept

    def run_node(self, n: fx.Node) -> Any:
        self._kept[n] = super().run_node(n)
        return self._kept[n]
