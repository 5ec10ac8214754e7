"""Answers after every item of a history."""

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.data import Ragged
from recprune_export.finetuning.all_positions import POSITIONS, find_positions, make_all_positions_program
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.recommenders import InputSpec, SASRec

LENGTH, ITEMS = 6, 30


class Backwards(nn.Module):
    """A running sum of item vectors, scored against the item table."""

    def __init__(self, *, forwards: bool = False, whole: bool = False) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, 4)
        self.forwards, self.whole = forwards, whole

    def forward(self, history: Tensor) -> Tensor:
        hidden = self.items(history).cumsum(1)
        if self.forwards:
            hidden = hidden + hidden.mean(1, keepdim=True)
        last = hidden[:, -1]
        if self.whole:
            last = last + hidden.mean(1)
        return last @ self.items.weight.T


def captured(module: nn.Module) -> Program:
    module.eval()
    return capture(module, (torch.randint(1, ITEMS, (3, LENGTH)),))


def histories(rows: int) -> Tensor:
    lengths = np.arange(rows) % (LENGTH - 1) + 1
    values = np.random.default_rng(0).integers(1, ITEMS, lengths.sum())
    return torch.from_numpy(Ragged(values, np.concatenate([[0], np.cumsum(lengths)])).pad_left(LENGTH))


def sasrec() -> SASRec:
    torch.manual_seed(0)
    return SASRec(InputSpec(items=ITEMS, max_length=LENGTH), dim=8).eval()


class Scores(nn.Module):
    def __init__(self, sasrec: SASRec) -> None:
        super().__init__()
        self.sasrec = sasrec

    def forward(self, history: Tensor) -> Tensor:
        return self.sasrec({"history": history})["scores"]


def test_the_answers_are_those_of_the_recommender_at_every_known_place() -> None:
    module = sasrec()
    everywhere = make_all_positions_program(captured(Scores(module)))
    assert everywhere is not None
    history = histories(7)
    known = history > 0
    with torch.no_grad():
        (found,) = everywhere({"history": history, POSITIONS: find_positions(known)}).values()
        expected = module.encode(history)[known] @ module.items.weight.T
    assert found.shape == expected.shape == (int(known.sum()), ITEMS)
    torch.testing.assert_close(found, expected)


def test_what_is_learned_there_is_learned_by_the_program() -> None:
    program = captured(Backwards())
    everywhere = make_all_positions_program(program)
    assert everywhere is not None
    before = program.parameters()["items.weight"].detach().clone()
    (found,) = everywhere({"history": histories(4), POSITIONS: torch.arange(8)}).values()
    found.square().sum().backward()
    torch.optim.SGD(everywhere.module.parameters(), lr=0.1).step()
    assert not torch.equal(program.parameters()["items.weight"], before)


def test_the_program_itself_is_left_as_it_was() -> None:
    program = captured(Backwards())
    names = [node.name for node in program.module.graph.nodes]
    make_all_positions_program(program)
    assert [node.name for node in program.module.graph.nodes] == names


def test_a_model_that_looks_ahead_is_not_asked_before_the_end() -> None:
    assert make_all_positions_program(captured(Backwards(forwards=True))) is None


def test_a_model_that_uses_more_than_the_last_place_is_not_asked_before_the_end() -> None:
    assert make_all_positions_program(captured(Backwards(whole=True))) is None
