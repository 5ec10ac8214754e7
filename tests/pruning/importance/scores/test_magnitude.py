import pytest
import torch
from torch import Tensor

from recprune_export.data import Batch
from tests.pruning.importance.scores.inputs import HIDDEN, inputs, scores_of


def test_taylor_is_what_zeroing_costs_to_first_order() -> None:
    given = inputs()
    epsilon, unit = 1e-3, 4
    weights = {n: given.program.parameters()[n] for n in ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight")}

    def shrunk(name: str, batch: Batch) -> Tensor:
        """The change of the loss for one slice, by finite differences."""
        p, axis = weights[name], 1 if name == "mlp.2.weight" else 0
        before = given.loss(given.program(batch[0]), {})
        with torch.no_grad():
            p.select(axis, unit).mul_(1 - epsilon)
            after = given.loss(given.program(batch[0]), {})
            p.select(axis, unit).div_(1 - epsilon)
        return (before - after).detach() / epsilon

    expected = sum(shrunk(name, batch).square() for name in weights for batch in given.batches)
    assert float(scores_of("taylor", given)[HIDDEN][unit]) == pytest.approx(float(expected), rel=0.02)  # type: ignore[arg-type]
