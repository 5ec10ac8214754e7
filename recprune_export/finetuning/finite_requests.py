"""Detection of the rows of a random request that a model answers with finite numbers.

A random request may never occur in practice, such as a history of only padding, for which softmax or a mean gives NaN. Even if the model
replaces such an answer afterwards, its gradients are NaN, and nothing can be learned from it. If every row has a NaN among its
intermediate values, such as a logarithm that `where` leaves out, only the outputs decide.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.finetuning.finite_operators import gives_finite_values
from recprune_export.program.program import Program
from recprune_export.program.recorder import ValueRecorder
from recprune_export.program.signature import BATCH
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

OVERFLOW_ROWS = 64  # overflow occurs in most rows or in none


def find_finite_rows(program: Program, tensors: Sequence[Tensor]) -> Tensor:
    """Return for each row of a request whether no value that `program` computes from it is NaN, bool [B].

    If that holds for no row, only the outputs count. Rows are examined one by one only if the sum of a value is NaN. Time: a forward
    pass; only on `OVERFLOW_ROWS` rows if no operator gives NaN for finite numbers.
    """
    chunk_rows = _choose_chunk_rows(program)
    inputs, outputs = program.signature.inputs, program.signature.outputs
    has_batch = [i.shape[:1] == (BATCH,) for i in inputs]
    rows = next((len(t) for t, batched in zip(tensors, has_batch, strict=True) if batched), 0)
    if gives_finite_values(program) and _are_finite(program, _take_rows(program, tensors, slice(OVERFLOW_ROWS))):
        return torch.ones(rows, dtype=torch.bool)
    nan_value, nan_output = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    computing = _find_computing_nodes(program)
    sums = ValueRecorder(program, computing, summarize=lambda _, value: _sum(value))
    recorder = ValueRecorder(program, computing, summarize=lambda _, value: _find_nan_rows(value))
    returned = program.module.graph.output_node().args[0]
    batched_outputs = [o.name for o, n in zip(outputs, returned, strict=True) if _has_batch(n)]  # type: ignore[arg-type]
    for start in range(0, rows, chunk_rows):
        chunk = slice(start, start + chunk_rows)
        request = _take_rows(program, tensors, chunk)
        summed = sums(request)
        if not torch.stack([*summed.values.values(), *map(_sum, summed.answers.values())]).isnan().any():
            continue
        recording = recorder(request)
        for nan_rows in recording.values.values():
            if len(nan_rows) == len(nan_value[chunk]):
                nan_value[chunk] |= nan_rows
        for name in batched_outputs:
            nan_rows = _find_nan_rows(recording.answers[name])
            if len(nan_rows) == len(nan_output[chunk]):
                nan_output[chunk] |= nan_rows
    return ~nan_output if nan_value.all() else ~nan_value


def _take_rows(program: Program, tensors: Sequence[Tensor], rows: slice) -> dict[str, Tensor]:
    """Return the rows of a request by input; inputs without a batch are complete."""
    inputs = program.signature.inputs
    return {i.name: t[rows] if i.shape[:1] == (BATCH,) else t for i, t in zip(inputs, tensors, strict=True)}


def _are_finite(program: Program, request: Mapping[str, Tensor]) -> bool:
    with torch.no_grad():
        answers = program(request)
    return all(bool(values.isfinite().all()) for values in answers.values())


def _choose_chunk_rows(program: Program) -> int:
    """Return the number of rows of which the largest value takes 64 MiB in float32, at least 256.

    Scores of all items, or the attention of a long history, take megabytes for each row.
    """
    max_elements, min_rows = 2**24, 256
    values = [node.meta["val"] for node in program.module.graph.nodes if _has_batch(node)]
    largest = max((prod(size for size in value.shape[1:] if isinstance(size, int)) for value in values), default=1)
    return max(min_rows, max_elements // max(largest, 1))


def _sum(value: Any) -> Tensor:
    """Return the sum of a value, NaN if an element is; 0 if the value has no floats."""
    return value.sum().double() if isinstance(value, Tensor) and value.is_floating_point() else torch.zeros(()).double()


def _find_computing_nodes(program: Program) -> list[str]:
    """Return the nodes, other than data movement, with the batch on the first axis of their value."""
    return [
        node.name
        for node in program.module.graph.nodes
        if node.op == "call_function" and node.target not in DATA_MOVEMENT_OPERATORS and _has_batch(node)
    ]


def _find_nan_rows(value: Any) -> Tensor:
    """Return for each index of the first axis whether it has a NaN; an empty tensor if the value has no floats."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return torch.zeros(0, dtype=torch.bool)
    return value.isnan().reshape(len(value), -1).any(dim=1)


def _has_batch(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and not isinstance(value.shape[0], int)
