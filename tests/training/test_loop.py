import math

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import ModelError
from recprune_export.training import FitResult, fit, loop


def run(
    metrics: list[float], epochs: int, patience: int, rate: float = 0.1, baseline: float = -math.inf
) -> tuple[nn.Linear, FitResult, list[float]]:
    """Fit one weight; the epochs are given these metrics. Also return the weight after each epoch."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    values = iter(metrics)
    weights: list[float] = []

    def evaluate() -> float:
        weights.append(module.weight.item())
        return next(values)

    def loss(batch: Tensor) -> Tensor:
        return (module(batch) - 1.0).square().mean()

    result = fit(
        module,
        batches=lambda epoch: [torch.ones(2, 1)],
        loss=loss,
        evaluate=evaluate,
        optimizers=[torch.optim.SGD(module.parameters(), lr=rate)],
        epochs=epochs,
        patience=patience,
        steps_per_epoch=1,
        description="",
        baseline=baseline,
    )
    return module, result, weights


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    module, result, weights = run([0.1, 0.5, 0.3, 0.2], epochs=4, patience=9)
    assert (result.best, result.metric) == (1, 0.5)
    assert module.weight.item() == weights[1] != weights[3]


def test_it_stops_when_nothing_gets_better() -> None:
    _, result, _ = run([0.5, 0.4, 0.4, 0.9], epochs=4, patience=2)
    assert len(result.epochs) == 3


def test_a_plateau_before_anything_is_learned_costs_less_patience() -> None:
    plateau = [0.5] + [0.4] * 20
    lengths = [len(run(plateau, epochs=20, patience=2, baseline=value)[1].epochs) for value in (0.3, 0.6)]
    assert lengths == [3, 1 + 2 * loop.PLATEAU_PATIENCE]
    _, result, _ = run([0.5, 0.4, 0.4, 0.7, 0.6, 0.6, 0.9], epochs=9, patience=2, baseline=0.6)
    assert (result.best, len(result.epochs)) == (3, 6)


def test_an_epoch_that_is_no_candidate_costs_no_patience() -> None:
    _, result, _ = run([-math.inf, -math.inf, 0.4], epochs=3, patience=1)
    assert result.best == 2


def test_a_loss_that_runs_away_is_an_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        run([0.0] * 50, epochs=50, patience=99, rate=1e20)


def test_one_copy_of_the_weights_is_held_and_none_of_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[object] = []
    update = loop.WeightSnapshot.update
    monkeypatch.setattr(loop.WeightSnapshot, "update", lambda self, module: copies.append(self) or update(self, module))
    module, result, weights = run([0.1, 0.2, 0.3, 0.4], epochs=4, patience=9)
    assert len(copies) == 3
    assert len({id(copied) for copied in copies}) == 1
    assert (result.best, module.weight.item()) == (3, weights[3])
