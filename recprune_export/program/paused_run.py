"""`PausedRun`: a run of a program that pauses at chosen calls, so that weights of later nodes can be changed in between."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors


class PausedRun(fx.Interpreter):
    """One run of an unchanged program on one request, which pauses at requested nodes, in the order of the graph.

    Each node runs once, and at a pause only the values that later nodes read are in memory, and those of `outputs` that were
    not asked for yet. So the run costs one forward pass, however often it pauses. A weight that is changed in place during a pause is
    used from there on.
    """

    def __init__(self, program: Program, request: Mapping[str, Tensor], outputs: Collection[str] = ()) -> None:
        super().__init__(program.module)
        self._nodes = list(program.module.graph.nodes)
        self._positions = {node.name: position for position, node in enumerate(self._nodes)}
        self._outputs = frozenset(outputs)
        self._passed: dict[str, Tensor] = {}
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self.env.update(zip(placeholders, to_program_tensors(program.signature, request), strict=True))
        self._next = 0

    def call_outputs(self, calls: Sequence[str]) -> list[Tensor]:
        """Return the value of each of `calls`, each requested once; the run continues to the end of the last of them.

        Their names were given as `outputs`.
        """
        self._run_before(1 + max(self._positions[name] for name in calls))
        return [self._passed.pop(name) for name in calls]

    def call_inputs(self, calls: Sequence[str]) -> list[Tensor]:
        """Return the argument `input` of each of `calls`, none of which has run; the run continues to the first of them.

        If there are several calls, the nodes between them run with the present weights, and run again later.
        """
        self._run_before(min(self._positions[name] for name in calls))
        sources = [argument(self._nodes[self._positions[name]], "input") for name in calls]
        if all(source in self.env for source in sources):
            return [self.env[source] for source in sources]
        paused = dict(self.env), dict(self._passed), self._next
        values = {}
        for name, source in sorted(zip(calls, sources, strict=True), key=lambda pair: self._positions[pair[0]]):
            self._run_before(self._positions[name])
            values[name] = self.env[source]
        self.env, self._passed, self._next = paused
        return [values[name] for name in calls]

    def _run_before(self, end: int) -> None:
        """Run the nodes up to position `end`, and free each value after its last reader."""
        with torch.no_grad():
            while self._next < end:
                node = self._nodes[self._next]
                if node.op != "placeholder":
                    self.env[node] = self.run_node(node)
                if node.name in self._outputs:
                    self._passed[node.name] = self.env[node]
                for read in self.user_to_last_uses.get(node, []):
                    del self.env[read]
                self._next += 1
