"""`ValueRecorder`: the values of chosen nodes, recorded while a program answers a request."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.program import Program

Summary = Callable[[fx.Node, Any], Any]  # from a node and its value to what is recorded of it


@dataclass(frozen=True)
class Recording:
    """The recorded values by the name of their node, in the order of the graph, and the answers by output.

    `answers` is empty where the run stopped before its end.
    """

    values: Mapping[str, Any]
    answers: Mapping[str, Tensor]


class _LastNodeRan(Exception):
    """Ends a run from inside of a node: `fx.Interpreter` has no other way."""


class ValueRecorder(fx.Interpreter):
    """Runs a program and records the values of some nodes, by name, or of all; it computes what the program computes.

    `summarize` reduces each value to what is recorded of it, so that the value itself can be freed. With
    `keep_gradients` the run can be differentiated with respect to every recorded value, also to one below which all
    weights are frozen. With `stop_early` nothing runs after the last of `nodes`, and there are no answers.
    """

    def __init__(
        self,
        program: Program,
        nodes: Collection[str] | None = None,
        *,
        summarize: Summary | None = None,
        keep_gradients: bool = False,
        stop_early: bool = False,
    ) -> None:
        super().__init__(program.module)
        self.extra_traceback = not stop_early  # it describes the whole graph, for what is no error here
        self._signature = program.signature
        self._nodes = frozenset(n.name for n in program.module.graph.nodes if nodes is None or n.name in nodes)
        self._summarize = summarize
        self._keep_gradients, self._stop_early = keep_gradients, stop_early
        self._values: dict[str, Any] = {}

    def __call__(self, request: Mapping[str, Tensor]) -> Recording:
        """Answer a request. The values are those of this request alone."""
        self._values, answers = {}, ()
        with torch.set_grad_enabled(self._keep_gradients), contextlib.suppress(_LastNodeRan):
            answers = self.run(*(request[i.name] for i in self._signature.inputs))
        self.env = {}
        names = [o.name for o in self._signature.outputs[: len(answers)]]
        return Recording(self._values, dict(zip(names, answers, strict=True)))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self._nodes:
            return value
        if self._keep_gradients and isinstance(value, Tensor) and not value.requires_grad:
            value = value.detach().requires_grad_()
        self._values[n.name] = value if self._summarize is None else self._summarize(n, value)
        if self._stop_early and len(self._values) == len(self._nodes):
            raise _LastNodeRan
        return value


def record_values(program: Program, request: Mapping[str, Tensor], nodes: Collection[str]) -> Mapping[str, Any]:
    """Return the values of some nodes on one request; nothing runs after the last of them."""
    return ValueRecorder(program, nodes, stop_early=True)(request).values
