"""What scores are given in their tests: a small recommender with, perhaps, a special hidden unit."""

import torch
from torch import Tensor

from recprune_export.data import Batch
from recprune_export.finetuning import Objective
from recprune_export.program import sample_request_tensors
from recprune_export.pruning import ScoreInputs, rank_channels
from tests.pruning.models import scorer

HIDDEN = "mlp.0.weight:0"
ROWS = 64


def inputs(
    dead: int | None = None,
    louder: int | None = None,
    constant: int | None = None,
    same: tuple[int, int] | None = None,
    factor: float = 1.0,
) -> ScoreInputs:
    """Score inputs; with `same`, the second unit is the first one, `factor` times as large, and read alike."""
    program = scorer()
    weight, bias, following = (program.parameters()[n] for n in ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight"))
    with torch.no_grad():
        if dead is not None:
            weight[dead], bias[dead], following[:, dead] = 0.0, 0.0, 0.0
        if louder is not None:
            weight[louder] *= 10.0
            following[:, louder] *= 10.0
        if constant is not None:
            weight[constant] = 0.0
        if same is not None:
            one, other = same
            weight[other], bias[other] = factor * weight[one], factor * bias[one]
            following[:, other] = following[:, one]
    batches: list[Batch] = []
    for seed in range(3):
        request = dict(zip(("user", "item"), sample_request_tensors(program.signature, ROWS, seed), strict=True))
        batches.append((request, {}))
    objective = Objective({"output": "value"}, {})
    return ScoreInputs(
        program,
        batches,
        lambda out, labels: out["output"].square().mean(),
        objective.distillation,
        objective.probe,
        seed=0,
    )


def scores_of(name: str, given: ScoreInputs) -> dict[str, Tensor]:
    """Where a score is one number for each channel: those, read back from the losses of its ranking."""
    found = {}
    for group, ranking in rank_channels(name, given).items():
        losses = torch.tensor(ranking.losses, dtype=torch.float64)
        found[group] = torch.zeros(len(ranking.order), dtype=torch.float64)
        found[group][list(ranking.order)] = losses[:-1] - losses[1:]
    return found
