import pytest
import torch
from torch import Tensor

from recprune_export.errors import UsageError
from recprune_export.finetuning.objective import Objective
from recprune_export.program.program import example_tensors
from recprune_export.pruning.moments import Batch
from recprune_export.pruning.scores import SCORES, ScoreInputs, rankings_by
from tests.pruning.models import scorer

HIDDEN = "mlp.0.weight:0"


def inputs(dead: int | None = None, louder: int | None = None, constant: int | None = None) -> ScoreInputs:
    """Score inputs of a model with, perhaps, a special hidden unit."""
    program, analysis = scorer()
    weight, bias, following = (program.parameters()[n] for n in ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight"))
    with torch.no_grad():
        if dead is not None:
            weight[dead], bias[dead], following[:, dead] = 0.0, 0.0, 0.0
        if louder is not None:
            weight[louder] *= 10.0
            following[:, louder] *= 10.0
        if constant is not None:
            weight[constant] = 0.0
    batches: list[Batch] = []
    for seed in range(3):
        request = dict(zip(("user", "item"), example_tensors(program.signature, 64, seed), strict=True))
        batches.append((request, {}))
    objective = Objective({"output": "value"}, {})
    return ScoreInputs(
        program, analysis, batches, lambda out, labels: out["output"].square().mean(), objective.probe, seed=0
    )


def scores_of(name: str, given: ScoreInputs) -> dict[str, Tensor]:
    """Where a score is one number for each channel: those, read back from the losses of its ranking."""
    found = {}
    for group, ranking in rankings_by(name, given).items():
        losses = torch.tensor(ranking.losses, dtype=torch.float64)
        found[group] = torch.zeros(len(ranking.order), dtype=torch.float64)
        found[group][list(ranking.order)] = losses[:-1] - losses[1:]
    return found


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_ranks_every_channel_and_is_repeatable(name: str) -> None:
    one, two = rankings_by(name, inputs()), rankings_by(name, inputs())
    for group in inputs().analysis.groups:
        assert one[group.name].order == two[group.name].order
        assert one[group.name].losses == two[group.name].losses
        assert one[group.name].transform == two[group.name].transform
        assert sorted(one[group.name].order) == list(range(group.width))
        losses = torch.tensor(one[group.name].losses)
        assert len(losses) == group.width + 1
        assert bool(losses.isfinite().all())
        assert bool((losses.diff() <= 0).all())


@pytest.mark.parametrize("name", ["magnitude-l1", "magnitude-l2", "taylor", "variance"])
def test_a_dead_unit_comes_last(name: str) -> None:
    values = scores_of(name, inputs(dead=5))[HIDDEN]
    assert values[5] == 0.0
    assert int(values.argmin()) == 5


@pytest.mark.parametrize("name", ["magnitude-l1", "magnitude-l2", "taylor", "variance"])
def test_a_loud_unit_comes_first(name: str) -> None:
    assert int(scores_of(name, inputs(louder=7))[HIDDEN].argmax()) == 7


def test_a_unit_that_says_always_the_same_has_no_variance() -> None:
    values = scores_of("variance", inputs(constant=3))[HIDDEN]
    assert float(values[3]) == pytest.approx(0.0, abs=1e-5)


def test_the_variance_is_that_of_what_comes_out() -> None:
    given = inputs()
    values = scores_of("variance", given)["user.weight:1"]
    looked_up = torch.cat([given.program.parameters()["user.weight"][request["user"]] for request, _ in given.batches])
    torch.testing.assert_close(values.float(), looked_up.detach().var(0, correction=0), rtol=1e-3, atol=1e-5)


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


def test_a_score_that_there_is_not_is_said() -> None:
    with pytest.raises(UsageError, match="no score 'luck'; choose one of magnitude-l1"):
        rankings_by("luck", inputs())
