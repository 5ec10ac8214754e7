"""Packed sequences as padded steps, while a model is captured.

`pack_padded_sequence` makes a tensor whose size depends on the values of the request, which no graph can hold. What a
recurrent layer makes of it can be had from the padded sequence as well: a step that is past the end of its row changes
no earlier step, so outputs are those of the padded sequence with the steps past the end cleared, and the last state is
that of the row's last step. A layer that runs backwards gets each row turned around within its length.

Shapes: B batch, L steps, I inputs, H hidden units; sequences are L×B×I here.
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
    """What `pack_padded_sequence` gives meanwhile: `data` is still padded, L×B×I; `lengths` is B."""

    lengths: Tensor


@contextmanager
def pad_packed_sequences() -> Iterator[None]:
    """Inside the block packing, unpacking and recurrent layers work on padded steps.

    A padded batch has as many steps as before, a packed one as its longest row: what a model answers has to be compared,
    row by row, where it may look at the number of steps.
    Models import `pack_padded_sequence` by name, so what the function does is replaced, not who it is.
    """
    functions = cast(tuple[FunctionType, FunctionType], (rnn.pack_padded_sequence, rnn.pad_packed_sequence))
    codes = [function.__code__ for function in functions]
    forwards = {layer: layer.forward for layer in (nn.GRU, nn.LSTM, nn.RNN)}
    for function, stand_in in zip(functions, (_pack_padded_sequence, _pad_packed_sequence), strict=True):
        function.__code__ = stand_in.__code__
    for layer, forward in forwards.items():
        layer.forward = _over_steps(forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for function, code in zip(functions, codes, strict=True):
            function.__code__ = code
        for layer, forward in forwards.items():
            layer.forward = forward  # type: ignore[method-assign]


# The two below run with the globals of torch.nn.utils.rnn, so they import what they need.
def _pack_padded_sequence(input, lengths, batch_first=False, enforce_sorted=True):  # type: ignore[no-untyped-def]
    from recprune_export.program.capture.packed_sequences import pack

    return pack(input, lengths, batch_first)


def _pad_packed_sequence(sequence, batch_first=False, padding_value=0.0, total_length=None):  # type: ignore[no-untyped-def]
    from recprune_export.program.capture.packed_sequences import pad

    return pad(sequence, batch_first, padding_value)


def pack(sequence: Tensor, lengths: Any, batch_first: bool) -> PaddedSequence:
    """Keep a padded sequence as it is, with its lengths."""
    steps = sequence.transpose(0, 1) if batch_first else sequence
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    sizes = (lengths > torch.arange(steps.shape[0]).unsqueeze(1)).sum(1)
    packed = PaddedSequence(steps, sizes, None, None)
    packed.lengths = lengths
    return packed


def pad(packed: PaddedSequence, batch_first: bool, value: float) -> tuple[Tensor, Tensor]:
    """Clear what is past the end of each row; all steps stay, as many as there were before packing."""
    steps = packed.data
    past = torch.arange(steps.shape[0]).unsqueeze(1) >= packed.lengths
    cleared = steps.masked_fill(past.reshape(*past.shape, *[1] * (steps.ndim - 2)), value)
    return (cleared.transpose(0, 1) if batch_first else cleared), packed.lengths


def _over_steps(forward: Callable[..., Any]) -> Callable[..., Any]:
    def either(self: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        return _run(self, input, hx) if isinstance(input, PaddedSequence) else forward(self, input, hx)

    return either


def _run(layer: nn.RNNBase, packed: PaddedSequence, first: Any) -> tuple[PaddedSequence, Any]:
    """All layers and directions, one after the other."""
    steps, lengths = packed.data, packed.lengths
    directions = 2 if layer.bidirectional else 1
    states = first if isinstance(first, tuple) else (first,)
    last: list[tuple[Tensor, ...]] = []
    for number in range(layer.num_layers):
        outputs = []
        for direction in range(directions):
            index = number * directions + direction
            begin = tuple(None if state is None else state[index] for state in states)
            output, state = _run_one(layer, index, steps, lengths, begin, backwards=direction == 1)
            outputs.append(output)
            last.append(state)
        steps = torch.cat(outputs, -1) if directions > 1 else outputs[0]
    result = PaddedSequence(steps, packed.batch_sizes, None, None)
    result.lengths = lengths
    stacked = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return result, stacked if isinstance(layer, nn.LSTM) else stacked[0]


def _run_one(
    layer: nn.RNNBase, index: int, steps: Tensor, lengths: Tensor, begin: tuple[Tensor | None, ...], backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    weights = cast(list[Tensor], layer.all_weights[index])
    turned = _turned(steps, lengths) if backwards else steps
    blank = steps.new_zeros(steps.shape[1], layer.hidden_size)
    hidden = blank if begin[0] is None else begin[0]
    if not isinstance(layer, nn.LSTM):
        operator = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[layer.mode]
        output = operator(turned, hidden[None], weights, layer.bias, 1, 0.0, False, False, False)[0]
        state: tuple[Tensor, ...] = (_at_the_end(output, lengths),)
    else:
        cell = blank if len(begin) < 2 or begin[1] is None else begin[1]
        output = torch.lstm(turned, (hidden[None], cell[None]), weights, layer.bias, 1, 0.0, False, False, False)[0]
        # Dead code, and removed as such, unless the model reads the last cells.
        state = (_at_the_end(output, lengths), _last_cell(turned, hidden, cell, weights, lengths))
    return (_turned(output, lengths) if backwards else output), state


def _turned(steps: Tensor, lengths: Tensor) -> Tensor:
    """Each row backwards within its length; what is past the end stays."""
    place = torch.arange(steps.shape[0]).unsqueeze(1)
    mirrored = torch.where(place < lengths, lengths - 1 - place, place)
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
