"""What a sequential recommender is tuned with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.data import (
    HISTORY,
    NEXT_ITEM,
    SchemaOverrides,
    SequenceData,
    infer_sequence_schema,
    load_sequences,
)
from recprune_export.finetuning import FineTuningConfig, NextItems, Objective
from recprune_export.finetuning import task as task_module
from recprune_export.finetuning.all_positions import POSITIONS
from recprune_export.program import Program
from recprune_export.program.capture import capture

RECIPE = FineTuningConfig(epochs=1, learning_rate=1e-3, batch_size=16)


class LastItem(nn.Module):
    """Scores items by the last one, and by the mean of the history where it is not `causal`."""

    def __init__(self, items: int, *, causal: bool) -> None:
        super().__init__()
        self.items = nn.Embedding(items, 4)
        self.causal = causal

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        hidden = self.items(history)
        if not self.causal:
            hidden = hidden + hidden.mean(1, keepdim=True)
        return hidden[:, -1] @ self.items.weight.T


@pytest.fixture(scope="module")
def data(sequences_file: Path) -> SequenceData:
    return load_sequences(sequences_file, infer_sequence_schema(sequences_file, SchemaOverrides()))


def program_for(data: SequenceData, *, causal: bool) -> Program:
    module = LastItem(data.encoder.items.rows, causal=causal).eval()
    return capture(module, (torch.ones(3, data.encoder.columns.max_length, dtype=torch.int64),))


def test_every_place_of_a_history_asks_for_the_item_after_it(data: SequenceData) -> None:
    task, program = NextItems(data, Objective({}, {}), RECIPE), program_for(data, causal=True)
    lessons = task.distillation_data(program, program)
    batches = list(lessons.batches(0))
    assert len(batches) == lessons.steps_per_epoch == -(-len(data.train) // RECIPE.batch_size)
    length = data.encoder.columns.max_length
    assert sum(len(request[POSITIONS]) for request, _ in batches) == data.train.lengths.clip(max=length).sum()
    for request, labels in batches:
        items, wanted = request[HISTORY].flatten()[request[POSITIONS]], labels[NEXT_ITEM]
        ends = request[POSITIONS] % length == length - 1
        assert (items > 0).all()
        assert (wanted[ends] == 0).all()
        assert torch.equal(wanted[~ends], items[1:][~ends[:-1]])
        (answers,) = lessons.student(request).values()
        assert len(answers) == len(wanted)


def test_a_model_that_looks_ahead_learns_from_histories_that_are_cut(data: SequenceData) -> None:
    task, program = NextItems(data, Objective({}, {}), RECIPE), program_for(data, causal=False)
    lessons = task.distillation_data(program, program)
    batches = list(lessons.batches(0))
    assert lessons.student is program
    assert len(batches) == lessons.steps_per_epoch
    assert all(set(request) == {HISTORY} for request, _ in batches)


def test_long_histories_of_many_items_are_asked_at_some_places(
    data: SequenceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = RECIPE.batch_size + 3
    monkeypatch.setattr(task_module, "MAX_SCORES", most * data.encoder.items.rows)
    program = program_for(data, causal=True)
    batches = list(NextItems(data, Objective({}, {}), RECIPE).distillation_data(program, program).batches(0))
    assert max(len(request[POSITIONS]) for request, _ in batches) == most
    for request, labels in batches:
        places, wanted = request[POSITIONS], labels[NEXT_ITEM]
        assert len(places) == len(places.unique()) == len(wanted)
        following = torch.nn.functional.pad(request[HISTORY][:, 1:], (0, 1)).flatten()
        assert torch.equal(following[places], wanted)


def test_an_answer_that_is_a_parameter_is_an_array() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * self.scale, self.scale.expand(x.shape[0])

    program = capture(Scale(), (torch.ones(3, 2),))
    found = task_module.run_program(program, {"x": np.ones((4, 2), dtype=np.float32)})
    assert [values.shape for values in found.values()] == [(4, 2), (4,)]
