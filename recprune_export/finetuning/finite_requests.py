"""Which rows of a drawn request a model can answer.

A request that is drawn at random may be one that never comes: a history of padding alone, of which softmax or a mean gives
NaN. Even where the model replaces such an answer afterwards, the slopes on the way are NaN. Nothing can be learnt there.
Where every row has a NaN on the way, such as a logarithm that `where` leaves out, the answers alone decide.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.program import Program
from recprune_export.program.signature import BATCH
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

CHUNK_ROWS = 256  # rows: scores of all items, or the attention of a long history, take megabytes each


def find_finite_rows(program: Program, tensors: Sequence[Tensor]) -> Tensor:
    """Return for each row of a request whether all that `program` computes of it are numbers, bool [B].

    Where that is so for none, whether its answers are. Runs `CHUNK_ROWS` rows at once.
    """
    by_row = [i.shape[:1] == (BATCH,) for i in program.signature.inputs]
    rows = next((len(t) for t, own in zip(tensors, by_row, strict=True) if own), 0)
    bad, lost = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    for start in range(0, rows, CHUNK_ROWS):
        some = slice(start, start + CHUNK_ROWS)
        watch = _NanRecorder(program, min(CHUNK_ROWS, rows - start))
        with torch.no_grad():
            watch.run(*(t[some] if own else t for t, own in zip(tensors, by_row, strict=True)))
        bad[some], lost[some] = watch.bad, watch.lost
    return ~lost if bad.all() else ~bad


class _NanRecorder(fx.Interpreter):
    """Runs a program and marks the rows that are NaN in any value with the batch on its first axis, and in an answer."""

    def __init__(self, program: Program, rows: int) -> None:
        super().__init__(program.module)
        self.bad, self.lost = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n.target not in DATA_MOVEMENT_OPERATORS and _by_row(n):
            self.bad |= self._nan(value)
        elif n.op == "output":
            for answer, each in zip(n.args[0], value, strict=True):  # type: ignore[arg-type]
                if _by_row(answer):
                    self.lost |= self._nan(each)
        return value

    def _nan(self, value: Any) -> Tensor:
        if not (isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(self.bad)):
            return torch.zeros_like(self.bad)
        return value.isnan().reshape(len(value), -1).any(dim=1)


def _by_row(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and not isinstance(value.shape[0], int)
