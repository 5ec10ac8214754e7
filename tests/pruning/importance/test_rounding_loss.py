"""The predicted loss of rounding: that of a table whose rows are looked up, masked and multiplied comes true."""

import functools

import pytest
import torch
from torch import Tensor, nn

from recprune_export.finetuning.rounded_weights import with_rounded_weights
from recprune_export.pipeline import make_sampled_task
from recprune_export.pipeline.planning import make_score_inputs
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning.importance.rounding_loss import predict_whole_table_losses
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.statistics.weight_reads import TableReads, gather_weight_reads
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits

ITEMS = 200


class NextItem(nn.Module):
    """Scores of all items for the mean of a history, in which 0 is padding that a mask hides."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, 16)
        with torch.no_grad():
            self.items.weight[0] = 30.0 * torch.eye(16)[0]  # never read behind the mask
            self.items.weight[1:, 3] += 2.0  # a common direction has no effect on a softmax

    def forward(self, history: Tensor) -> Tensor:
        mask = (history > 0).unsqueeze(-1).float()
        user = (self.items(history) * mask).sum(1) / mask.sum(1).clamp_min(1.0)
        return user @ self.items.weight.t()


@functools.cache
def program() -> Program:
    torch.manual_seed(0)
    history = torch.randint(1, ITEMS, (64, 20)) * (torch.rand(64, 20) < 0.3)
    return capture(NextItem().eval(), (history,))


@functools.cache
def score_inputs() -> ScoreInputs:
    return make_score_inputs(program(), make_sampled_task(program(), Settings().finetuning))


@functools.cache
def reads() -> TableReads:
    inputs = score_inputs()
    return gather_weight_reads(program(), inputs.batches, inputs.probe).tables["items.weight"]


def measure(bits: int) -> float:
    inputs, rounded = score_inputs(), with_rounded_weights(program(), StoredBits({"items.weight": bits}, {}))
    with torch.no_grad():
        distances = [
            inputs.distance(rounded(r), program()(r)) - inputs.distance(program()(r), program()(r))
            for r, _ in inputs.batches
        ]
    return float(torch.stack(distances).mean())


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_loss_of_a_table_that_is_looked_up_and_multiplied_comes_true(bits: int) -> None:
    """The curvature of a softmax is twice its divergence."""
    predicted = float(predict_whole_table_losses("items.weight", reads()).unturned[bits])
    assert 1.0 < predicted / measure(bits) < 4.0


def test_rows_without_effect_are_not_among_the_rows_that_are_rounded() -> None:
    assert float(reads().rows.abs().max()) < 30.0


def test_a_program_whose_outputs_do_not_depend_on_a_table_predicts_no_loss() -> None:
    rows = torch.zeros(0, 4, dtype=torch.float64)
    moment = torch.zeros(4, 4, dtype=torch.float64)
    losses = predict_whole_table_losses("unused", TableReads(rows, moment, rows, moment)).unturned
    assert {bits: float(loss) for bits, loss in losses.items()} == dict.fromkeys(losses, 0.0)
