import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.pruning.importance.scores.inputs import HIDDEN, ROWS, inputs, scores_of


def test_it_is_the_distance_of_the_answers_with_the_channel_in_another_order() -> None:
    given = inputs()
    parameters, (request, _) = given.program.parameters(), given.batches[0]
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(given.seed))

    def answer(user_dim: int | None = None, unit: int | None = None) -> dict[str, Tensor]:
        """The model written out, with a channel of its first table or layer shuffled."""
        user, item = (parameters[f"{name}.weight"][request[name]].clone() for name in ("user", "item"))
        if user_dim is not None:
            user[:, user_dim] = user[order, user_dim]
        hidden = F.linear(torch.cat([user, item], 1), parameters["mlp.0.weight"], parameters["mlp.0.bias"]).relu()
        if unit is not None:
            hidden[:, unit] = hidden[order, unit].clone()
        hidden = F.linear(hidden, parameters["mlp.2.weight"], parameters["mlp.2.bias"]).relu()
        return {"output": F.linear(hidden, parameters["mlp.4.weight"], parameters["mlp.4.bias"])[:, 0]}

    found = scores_of("permutation", given)
    with torch.no_grad():
        for dim in (0, 9):
            expected = float(given.distance(answer(user_dim=dim), answer()))
            assert float(found["user.weight:1"][dim]) == pytest.approx(expected, rel=1e-3)
        for unit in (3, 11):
            expected = float(given.distance(answer(unit=unit), answer()))
            assert float(found[HIDDEN][unit]) == pytest.approx(expected, rel=1e-3)


def test_a_unit_that_is_the_same_for_all_loses_nothing() -> None:
    assert float(scores_of("permutation", inputs(constant=3))[HIDDEN][3]) < 1e-9


def test_the_program_is_left_as_it_is() -> None:
    given = inputs()
    with torch.no_grad():
        before = given.program(given.batches[0][0])["output"]
        scores_of("permutation", given)
        assert torch.equal(before, given.program(given.batches[0][0])["output"])
