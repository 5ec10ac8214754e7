"""`CallRecorder`: what some nodes of a program read and put out on a request."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program


class CallRecorder(fx.Interpreter):
    """Runs a program and keeps what some of its nodes read and put out."""

    def __init__(self, program: Program, calls: Sequence[str]) -> None:
        super().__init__(program.module)
        self._signature = program.signature
        self._calls = calls
        self._read: dict[str, Tensor] = {}
        self._put: dict[str, Tensor] = {}

    def inputs(self, request: Mapping[str, Tensor]) -> list[Tensor]:
        self._answer(request)
        return [self._read[name] for name in self._calls]

    def outputs(self, request: Mapping[str, Tensor]) -> list[Tensor]:
        self._answer(request)
        return [self._put[name] for name in self._calls]

    def _answer(self, request: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.run(*(request[i.name] for i in self._signature.inputs))

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._calls:
            self._read[n.name] = self.env[argument(n, "input")]
        value = super().run_node(n)
        if n.name in self._calls:
            self._put[n.name] = value
        return value
