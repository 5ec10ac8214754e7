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
from recprune_export.program.recorder import ValueRecorder
from recprune_export.program.signature import BATCH
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

CHUNK_ROWS = 256  # rows: scores of all items, or the attention of a long history, take megabytes each


def find_finite_rows(program: Program, tensors: Sequence[Tensor]) -> Tensor:
    """Return for each row of a request whether all that `program` computes of it are numbers, bool [B].

    Where that is so for none, whether its answers are. Runs `CHUNK_ROWS` rows at once.
    """
    inputs, outputs = program.signature.inputs, program.signature.outputs
    by_row = [i.shape[:1] == (BATCH,) for i in inputs]
    rows = next((len(t) for t, own in zip(tensors, by_row, strict=True) if own), 0)
    bad, lost = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    recorder = ValueRecorder(program, _computing_nodes(program), summarize=lambda _, value: _nan_rows(value))
    returned = program.module.graph.output_node().args[0]
    answered = [o.name for o, node in zip(outputs, returned, strict=True) if _by_row(node)]  # type: ignore[arg-type]
    for start in range(0, rows, CHUNK_ROWS):
        some = slice(start, start + CHUNK_ROWS)
        request = {i.name: t[some] if own else t for i, t, own in zip(inputs, tensors, by_row, strict=True)}
        recording = recorder(request)
        for rows_of_value in recording.values.values():
            if len(rows_of_value) == len(bad[some]):
                bad[some] |= rows_of_value
        for name in answered:
            nan = _nan_rows(recording.answers[name])
            if len(nan) == len(lost[some]):
                lost[some] |= nan
    return ~lost if bad.all() else ~bad


def _computing_nodes(program: Program) -> list[str]:
    """Nodes that compute numbers, and do not only move them, with the batch on the first axis."""
    return [
        node.name
        for node in program.module.graph.nodes
        if node.op == "call_function" and node.target not in DATA_MOVEMENT_OPERATORS and _by_row(node)
    ]


def _nan_rows(value: Any) -> Tensor:
    """Return which indices of the first axis hold a NaN; of what holds no floats, no indices at all."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return torch.zeros(0, dtype=torch.bool)
    return value.isnan().reshape(len(value), -1).any(dim=1)


def _by_row(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and not isinstance(value.shape[0], int)
