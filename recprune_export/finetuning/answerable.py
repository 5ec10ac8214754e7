"""Which rows of a drawn request a model can answer.

A request that is drawn at random may be one that never comes: a history of padding alone, of which softmax or a mean gives
NaN. Even where the model replaces such an answer afterwards, the slopes on the way are NaN. Nothing can be learnt there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.movement import MOVEMENTS
from recprune_export.program.program import Program
from recprune_export.program.signature import BATCH


def answerable(program: Program, tensors: Sequence[Tensor]) -> Tensor:
    """Return for each row of a request whether all that `program` computes of it are numbers, bool [B]."""
    watch = _Watch(program, tensors)
    with torch.no_grad():
        watch.run(*tensors)
    return ~watch.bad


class _Watch(fx.Interpreter):
    """Runs a program and marks the rows that are NaN in any value with the batch on its first axis."""

    def __init__(self, program: Program, tensors: Sequence[Tensor]) -> None:
        super().__init__(program.module)
        rows = next(
            (len(t) for i, t in zip(program.signature.inputs, tensors, strict=True) if i.shape[:1] == (BATCH,)), 0
        )
        self.bad = torch.zeros(rows, dtype=torch.bool)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        numbers = n.target not in MOVEMENTS and isinstance(value, Tensor) and value.is_floating_point()
        if n.op == "call_function" and numbers and _by_row(n) and len(value) == len(self.bad):
            self.bad |= value.isnan().reshape(len(value), -1).any(dim=1)
        return value


def _by_row(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and not isinstance(value.shape[0], int)
