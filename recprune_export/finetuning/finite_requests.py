"""Detection of the rows of a random request that a model answers with finite numbers.

A random request may never occur in practice: a history of padding alone, of which softmax or a mean gives NaN. Even if the
model replaces such an answer afterwards, its gradients are NaN, and nothing can be learned from it. If every row has a NaN
among its intermediate values, such as a logarithm that `where` leaves out, the outputs alone decide.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.program import Program
from recprune_export.program.signature import BATCH
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS


def find_finite_rows(program: Program, tensors: Sequence[Tensor]) -> Tensor:
    """Return for each row of a request whether no value that `program` computes from it is NaN, bool [B].

    If that holds for no row, only the outputs count.
    """
    chunk_rows = 256  # scores of all items, or the attention of a long history, take megabytes for each row
    has_batch = [i.shape[:1] == (BATCH,) for i in program.signature.inputs]
    rows = next((len(t) for t, batched in zip(tensors, has_batch, strict=True) if batched), 0)
    nan_value, nan_output = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    for start in range(0, rows, chunk_rows):
        chunk = slice(start, start + chunk_rows)
        recorder = _NanRecorder(program, min(chunk_rows, rows - start))
        with torch.no_grad():
            recorder.run(*(t[chunk] if batched else t for t, batched in zip(tensors, has_batch, strict=True)))
        nan_value[chunk], nan_output[chunk] = recorder.nan_value, recorder.nan_output
    return ~nan_output if nan_value.all() else ~nan_value


class _NanRecorder(fx.Interpreter):
    """Interpreter that marks the rows with NaN in any value with the batch on its first axis, and in an output."""

    def __init__(self, program: Program, rows: int) -> None:
        super().__init__(program.module)
        self.nan_value = torch.zeros(rows, dtype=torch.bool)
        self.nan_output = torch.zeros(rows, dtype=torch.bool)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n.target not in DATA_MOVEMENT_OPERATORS and _has_batch(n):
            self.nan_value |= self._nan(value)
        elif n.op == "output":
            for node, output in zip(n.args[0], value, strict=True):  # type: ignore[arg-type]
                if _has_batch(node):
                    self.nan_output |= self._nan(output)
        return value

    def _nan(self, value: Any) -> Tensor:
        if not (isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(self.nan_value)):
            return torch.zeros_like(self.nan_value)
        return value.isnan().reshape(len(value), -1).any(dim=1)


def _has_batch(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and not isinstance(value.shape[0], int)
