"""`ValueRecorder`: the values of chosen nodes, recorded while a program answers a request."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from recprune_export.program.failures import FAILURES
from recprune_export.program.nodes import find_source_line
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors

Summary = Callable[[fx.Node, Any], Any]  # from a node and its value to the recorded value


@dataclass(frozen=True)
class Recording:
    """The recorded values by the name of their node, in the order of the graph, and the outputs by the name of the output.

    `answers` is empty if the run stopped before the end of the graph.
    """

    values: Mapping[str, Any]
    answers: Mapping[str, Tensor]


class _LastNodeRan(Exception):
    """Ends a run inside `run_node`: `fx.Interpreter` has no other way."""


class ValueRecorder(fx.Interpreter):
    """An interpreter that runs a program unchanged and records the values of `nodes`, by name, or of all nodes.

    `summarize` reduces each value before it is recorded, so that the value can be freed. With `keep_gradients` the outputs can be
    differentiated with respect to every recorded value, even one that depends only on frozen weights. With `stop_early` no node after the
    last of `nodes` runs, and there are no answers.
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
        self.extra_traceback = not stop_early  # it formats the whole graph, also for `_LastNodeRan`
        self._signature = program.signature
        names = frozenset(node.name for node in program.module.graph.nodes)
        self._nodes = names if nodes is None else names.intersection(nodes)
        self._summarize = summarize
        self._keep_gradients, self._stop_early = keep_gradients, stop_early
        self._values: dict[str, Any] = {}

    def __call__(self, request: Mapping[str, Tensor]) -> Recording:
        """Return the recorded values and the outputs of one request."""
        self._values, answers = {}, ()
        with torch.set_grad_enabled(self._keep_gradients), contextlib.suppress(_LastNodeRan):
            answers = self.run(*to_program_tensors(self._signature, request))
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
    """Return the values of `nodes` on one request; no node after the last of them runs."""
    return ValueRecorder(program, nodes, stop_early=True)(request).values


def find_failing_line(program: Program, request: Mapping[str, np.ndarray]) -> str:
    """Return the line of the user's code of the operator that fails on a request of arrays; empty if none does."""
    tensors = to_program_tensors(
        program.signature, {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in request.items()}
    )
    interpreter = _FailingNode(program.module)
    with torch.no_grad(), contextlib.suppress(*FAILURES):
        interpreter.run(*tensors)
        return ""
    return "" if interpreter.last is None else find_source_line(interpreter.last)


class _FailingNode(fx.Interpreter):
    """An interpreter that knows which node ran last."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.last: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.last = n
        return super().run_node(n)
