"""Layers that the importer finds in a graph: embedding bags and recurrent layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.bag_loops import EMBEDDING_BAG
from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.recurrent_nodes import LAYER
from recprune_export.program.loading.onnx_graphs.values import Value, as_tensor


@operator(EMBEDDING_BAG)
def embedding_bag(node: Node, table: Value, ids: Value, offsets: Value, weights: Value | None = None) -> Tensor:
    """The rows of each bag, reduced; `offsets` has the end of the last bag as well."""
    return F.embedding_bag(
        as_tensor(ids), as_tensor(table), as_tensor(offsets), mode=node.get("mode"), include_last_offset=True,
        per_sample_weights=None if weights is None else as_tensor(weights), padding_idx=node.get("padding"),
    )  # fmt: skip


@operator(f"GRU{LAYER}", f"LSTM{LAYER}", f"RNN{LAYER}")
def recurrent(
    node: Node, value: Value, lengths: Value | None, hidden: Value | None, cell: Value | None, *weights: Value
) -> tuple[Tensor | None, ...]:
    """A recurrent layer over L×B×K, or B×L×K with `layout=1`; returns L×directions×B×H, and the last states."""
    x = as_tensor(value)
    by_row = bool(node.get("layout", 0))
    both = node.get("direction", "forward") == "bidirectional"
    directions, width = 1 + both, int(as_tensor(weights[1]).shape[1])
    rows = x.shape[0] if by_row else x.shape[1]
    has_biases = len(weights) == 4 * directions
    states = [
        x.new_zeros(directions, rows, width)
        if state is None
        else as_tensor(state).transpose(0, 1)
        if by_row
        else as_tensor(state)
        for state in (hidden, cell)
    ]
    parameters = [as_tensor(weight) for weight in weights]
    options = (has_biases, 1, 0.0, False, both, by_row)
    if node.operator.startswith("LSTM"):
        answers, last, last_cell = torch.lstm(x, states, parameters, *options)
    else:
        function = torch.gru if node.operator.startswith("GRU") else torch.rnn_tanh
        answers, last = function(x, states[0], parameters, *options)
        last_cell = None
    split = answers.unflatten(-1, (directions, width))
    split = split if by_row else split.transpose(1, 2)
    if lengths is not None:
        split, last = _cut_off(split, as_tensor(lengths), 1 if by_row else 0)
    ends = [state.transpose(0, 1) if by_row and state is not None else state for state in (last, last_cell)]
    return (split, *ends)[: len(node.outputs)]


def _cut_off(answers: Tensor, lengths: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """Return the answers of a layer with zeros behind the end of each row, and its last state, 1×B×H.

    `answers` is L×1×B×H, or B×L×1×H where `time` is 1.
    """
    steps = torch.arange(answers.shape[time])
    if time:
        present = (steps < lengths.unsqueeze(1)).unsqueeze(-1).unsqueeze(-1)  # B×L×1×1
    else:
        present = (steps.unsqueeze(1) < lengths).unsqueeze(1).unsqueeze(-1)  # L×1×B×1
    final = (lengths.to(torch.int64) - 1).clamp(min=0)
    shape = [-1, 1, 1, 1] if time else [1, 1, -1, 1]
    sizes = [1 if axis == time else size for axis, size in enumerate(answers.shape)]
    last = torch.gather(answers * present, time, final.reshape(shape).expand(sizes)).squeeze(time)
    return answers * present, last.transpose(0, 1) if time else last
