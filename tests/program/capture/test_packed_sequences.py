"""Packed sequences become padded steps where that is the same, and are refused where it is not."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from recprune_export.program.capture.packed_sequences import pad_packed_sequences
from tests.properties import check_any_plan, no_zeros, prunable

KINDS = list(itertools.product((nn.GRU, nn.LSTM, nn.RNN), (1, 2), (False, True), (False, True)))


@pytest.mark.parametrize(("kind", "layers", "bidirectional", "batch_first"), KINDS)
def test_outputs_and_last_states_are_those_of_packed_sequences(
    kind: type[nn.RNNBase], layers: int, bidirectional: bool, batch_first: bool
) -> None:
    torch.manual_seed(0)
    layer = kind(5, 4, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first)  # type: ignore[call-arg]
    lengths = torch.tensor([3, 7, 1, 7, 2])
    sequence = torch.randn(5, 7, 5) if batch_first else torch.randn(7, 5, 5)

    def answer() -> list[Tensor]:
        packed = pack_padded_sequence(sequence, lengths, batch_first=batch_first, enforce_sorted=False)
        output, state = layer(packed)
        padded, known = pad_packed_sequence(output, batch_first=batch_first)
        return [padded, known, *(state if isinstance(state, tuple) else (state,))]

    with torch.no_grad():
        before = answer()
        with pad_packed_sequences():
            inside = answer()
        after = answer()
    for one, two, three in zip(before, inside, after, strict=True):
        torch.testing.assert_close(two, one)
        torch.testing.assert_close(three, one)


class Reader(nn.Module):
    """The state after the last of a history's items, B×2."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.layer = nn.Embedding(30, 6, padding_idx=0), nn.GRU(6, 8, batch_first=True)
        self.last = nn.Linear(8, 2)

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.items(history), length.cpu(), batch_first=True, enforce_sorted=False)
        _, state = self.layer(packed)
        return self.last(state[-1])  # type: ignore[no-any-return]


HISTORY = torch.tensor([[4, 5, 6, 7], [8, 0, 0, 0], [9, 2, 0, 0]])
LENGTH = torch.tensor([4, 1, 2])


def test_a_model_that_packs_is_captured_and_pruned() -> None:
    module = no_zeros(Reader())
    program, analysis = check_any_plan(module, HISTORY, LENGTH)
    assert {("items.weight", 1), ("layer.weight_hh_l0", 1), ("last.weight", 1)} <= prunable(analysis)
    with torch.no_grad():
        answered = program({"history": HISTORY, "length": LENGTH})["output"]
        torch.testing.assert_close(answered, module(HISTORY, LENGTH))


def test_the_valid_lengths_are_found() -> None:
    program = capture(Reader(), (HISTORY, LENGTH))
    (_, length) = program.signature.inputs
    assert length.ids in ((), ((1, 4),))
    assert length.ids or length.observed == (1.0, 4.0)


def test_a_model_that_looks_at_the_longest_row_is_refused() -> None:
    class Longest(Reader):
        def forward(self, history: Tensor, length: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.items(history), length, batch_first=True, enforce_sorted=False)
            output, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True)
            return self.last(output.mean(1))  # type: ignore[no-any-return]

    with pytest.raises(CaptureError, match="packed sequences"):
        capture(no_zeros(Longest()), (HISTORY, LENGTH))
