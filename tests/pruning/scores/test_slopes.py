from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recprune_export.pruning.scores.inputs import ScoreInputs
from tests.pruning.scores.inputs import HIDDEN, inputs, scores_of

UNIT = 4


def labelled() -> ScoreInputs:
    given = inputs()
    return replace(given, batches=[(request, {"any": torch.zeros(())}) for request, _ in given.batches])


def slopes_by_differences(given: ScoreInputs) -> Tensor:
    """How fast each request's own loss, its squared answer, falls as the unit fades."""
    parameters, step = given.program.parameters(), 1e-3
    weight, bias = parameters["mlp.0.weight"], parameters["mlp.0.bias"]

    def losses(gate: float) -> Tensor:
        with torch.no_grad():
            for p in (weight, bias):
                p[UNIT] *= gate
            found = torch.cat([given.program(request)["output"].square() for request, _ in given.batches])
            for p in (weight, bias):
                p[UNIT] /= gate
        return found.double()

    return (losses(1 + step) - losses(1 - step)) / (2 * step)


def test_fisher_is_half_the_mean_squared_slope_of_each_request() -> None:
    given = labelled()
    expected = 0.5 * float(slopes_by_differences(given).square().mean())
    assert float(scores_of("fisher", given)[HIDDEN][UNIT]) == pytest.approx(expected, rel=0.01)


def test_gradient_is_the_mean_absolute_slope() -> None:
    given = labelled()
    expected = float(slopes_by_differences(given).abs().mean())
    assert float(scores_of("gradient", given)[HIDDEN][UNIT]) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ["fisher", "gradient"])
def test_splitting_batches_changes_nothing(name: str) -> None:
    given = labelled()
    halves = [
        ({n: v[rows] for n, v in request.items()}, labels)
        for request, labels in given.batches
        for rows in (slice(0, 20), slice(20, None))
    ]
    whole, split = scores_of(name, given), scores_of(name, replace(given, batches=halves))
    for group in whole:
        torch.testing.assert_close(whole[group], split[group], rtol=1e-4, atol=1e-7)
