import pytest
import torch

from tests.pruning.importance.scores.inputs import HIDDEN, inputs, scores_of


def test_a_unit_that_says_always_the_same_has_no_variance() -> None:
    values = scores_of("variance", inputs(constant=3))[HIDDEN]
    assert float(values[3]) == pytest.approx(0.0, abs=1e-5)


def test_the_variance_is_that_of_what_comes_out() -> None:
    given = inputs()
    values = scores_of("variance", given)["user.weight:1"]
    looked_up = torch.cat([given.program.parameters()["user.weight"][request["user"]] for request, _ in given.batches])
    torch.testing.assert_close(values.float(), looked_up.detach().var(0, correction=0), rtol=1e-3, atol=1e-5)
