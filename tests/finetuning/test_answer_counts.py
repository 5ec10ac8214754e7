"""Batches end where there are as many answers as asked for."""

import pytest
import torch

from recprune_export.data.batch import Batch
from recprune_export.finetuning.answer_counts import count_answers_of_row, take_answers
from recprune_export.program import BATCH, Output, Signature

BATCHES: list[Batch] = [({"item": torch.arange(4), "shared": torch.arange(1)}, {}) for _ in range(10)]


@pytest.mark.parametrize(
    ("answers", "of_row", "taken"), [(40, 1, 10), (41, 1, 10), (40, 10, 1), (50, 10, 2), (9, 1, 3), (0, 1, 1)]
)
def test_batches_hold_the_answers(answers: int, of_row: int, taken: int) -> None:
    assert len(list(take_answers(answers, BATCHES, of_row))) == taken


@pytest.mark.parametrize(
    ("shape", "answers"), [((BATCH,), 1), ((BATCH, 100), 1), ((BATCH, 20, 100), 20), ((BATCH, 3, 20, 100), 60)]
)
def test_answers_of_a_row_are_its_positions(shape: tuple[int | str, ...], answers: int) -> None:
    assert count_answers_of_row(Signature((), (Output("scores", "float32", shape),))) == answers
