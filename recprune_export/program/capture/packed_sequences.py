"""Replacement of packed sequences by padded ones during a capture.

`pack_padded_sequence` returns a tensor whose size depends on the values of the request, which no graph can hold. The
padded sequence gives the same results: a step past the end of its row changes no earlier step, so the outputs are
those of the padded sequence with the steps past the end cleared, and the last state is that of the row's last step. A
backward layer gets each row reversed within its length.

Shapes: B batch, L steps, I inputs, H hidden units; sequences are L×B×I.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence


class PaddedSequence(PackedSequence):
    """The result of the replaced `pack_padded_sequence`: `data` is still padded, L×B×I; `lengths` is B."""

    lengths: Tensor


@contextmanager
def pad_packed_sequences() -> Iterator[None]:
    """Make packing, unpacking and recurrent layers work on padded steps inside the block.

    The padded result has as many steps as the input, a packed one as its longest row: the outputs of a model that reads
    the number of steps have to be compared row by row.
    Models import `pack_padded_sequence` by name, so the code of the function object is replaced, not the name.
    """
    functions = cast(tuple[FunctionType, FunctionType], (rnn.pack_padded_sequence, rnn.pad_packed_sequence))
    codes = [function.__code__ for function in functions]
    forwards = {layer: layer.forward for layer in (nn.GRU, nn.LSTM, nn.RNN)}
    for function, replacement in zip(functions, (_pack_padded_sequence, _pad_packed_sequence), strict=True):
        function.__code__ = replacement.__code__
    for layer, forward in forwards.items():
        layer.forward = _over_steps(forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for function, code in zip(functions, codes, strict=True):
            function.__code__ = code
        for layer, forward in forwards.items():
            layer.forward = forward  # type: ignore[method-assign]


# The code of the next two functions runs with the globals of torch.nn.utils.rnn, so each has its own import.
def _pack_padded_sequence(input, lengths, batch_first=False, enforce_sorted=True):  # type: ignore[no-untyped-def]
    from recprune_export.program.capture.packed_sequences import pack

    return pack(input, lengths, batch_first)


def _pad_packed_sequence(sequence, batch_first=False, padding_value=0.0, total_length=None):  # type: ignore[no-untyped-def]
    from recprune_export.program.capture.packed_sequences import pad

    return pad(sequence, batch_first, padding_value)


def pack(sequence: Tensor, lengths: Any, batch_first: bool) -> PaddedSequence:
    """Return a padded sequence unchanged, with its lengths."""
    steps = sequence.transpose(0, 1) if batch_first else sequence
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    sizes = (lengths > torch.arange(steps.shape[0]).unsqueeze(1)).sum(1)
    packed = PaddedSequence(steps, sizes, None, None)
    packed.lengths = lengths
    return packed


def pad(packed: PaddedSequence, batch_first: bool, value: float) -> tuple[Tensor, Tensor]:
    """Set the steps past the end of each row to `value`; the number of steps is that before packing."""
    steps = packed.data
    past = torch.arange(steps.shape[0]).unsqueeze(1) >= packed.lengths
    cleared = steps.masked_fill(past.reshape(*past.shape, *[1] * (steps.ndim - 2)), value)
    return (cleared.transpose(0, 1) if batch_first else cleared), packed.lengths


def _over_steps(forward: Callable[..., Any]) -> Callable[..., Any]:
    def either(self: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        return _run(self, input, hx) if isinstance(input, PaddedSequence) else forward(self, input, hx)

    return either


def _run(layer: nn.RNNBase, packed: PaddedSequence, initial: Any) -> tuple[PaddedSequence, Any]:
    """Run all layers and directions in order."""
    steps, lengths = packed.data, packed.lengths
    directions = 2 if layer.bidirectional else 1
    states = initial if isinstance(initial, tuple) else (initial,)
    last: list[tuple[Tensor, ...]] = []
    for number in range(layer.num_layers):
        outputs = []
        for direction in range(directions):
            index = number * directions + direction
            initial_state = tuple(None if state is None else state[index] for state in states)
            output, state = _run_one(layer, index, steps, lengths, initial_state, backwards=direction == 1)
            outputs.append(output)
            last.append(state)
        steps = torch.cat(outputs, -1) if directions > 1 else outputs[0]
    result = PaddedSequence(steps, packed.batch_sizes, None, None)
    result.lengths = lengths
    stacked = tuple(torch.stack(tensors) for tensors in zip(*last, strict=True))
    return result, stacked if isinstance(layer, nn.LSTM) else stacked[0]


def _run_one(
    layer: nn.RNNBase,
    index: int,
    steps: Tensor,
    lengths: Tensor,
    initial_state: tuple[Tensor | None, ...],
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    weights = cast(list[Tensor], layer.all_weights[index])
    ordered = _reverse_rows(steps, lengths) if backwards else steps
    zeros = steps.new_zeros(steps.shape[1], layer.hidden_size)
    hidden = zeros if initial_state[0] is None else initial_state[0]
    if not isinstance(layer, nn.LSTM):
        operator = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[layer.mode]
        output = operator(ordered, hidden[None], weights, layer.bias, 1, 0.0, False, False, False)[0]
        state: tuple[Tensor, ...] = (_at_the_end(output, lengths),)
    else:
        cell = zeros if len(initial_state) < 2 or initial_state[1] is None else initial_state[1]
        output = torch.lstm(ordered, (hidden[None], cell[None]), weights, layer.bias, 1, 0.0, False, False, False)[0]
        # Dead code, and removed as such, unless the model reads the last cells.
        state = (_at_the_end(output, lengths), _last_cell(ordered, hidden, cell, weights, lengths))
    return (_reverse_rows(output, lengths) if backwards else output), state


def _reverse_rows(steps: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row within its length; steps past the end are unchanged."""
    position = torch.arange(steps.shape[0]).unsqueeze(1)
    mirrored = torch.where(position < lengths, lengths - 1 - position, position)
    return steps.gather(0, mirrored.unsqueeze(-1).expand(-1, -1, steps.shape[-1]))


def _at_the_end(output: Tensor, lengths: Tensor) -> Tensor:
    last = (lengths - 1).clamp_min(0).reshape(1, -1, 1).expand(1, -1, output.shape[-1])
    return output.gather(0, last).squeeze(0)


def _last_cell(steps: Tensor, hidden: Tensor, cell: Tensor, weights: list[Tensor], lengths: Tensor) -> Tensor:
    for number in range(steps.shape[0]):
        new_hidden, new_cell = torch.lstm_cell(steps[number], (hidden, cell), *weights)
        running = (lengths > number).unsqueeze(1)
        hidden, cell = torch.where(running, new_hidden, hidden), torch.where(running, new_cell, cell)
    return cell
