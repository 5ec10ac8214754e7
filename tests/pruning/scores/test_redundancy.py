import pytest
import torch

from recprune_export.pruning.scores.registry import rankings_by
from tests.pruning.scores.inputs import HIDDEN, inputs, scores_of


@pytest.mark.parametrize(("pair", "factor", "quieter"), [((2, 9), 0.5, 9), ((2, 9), 3.0, 2), ((9, 2), 0.5, 2)])
def test_of_two_units_that_say_the_same_the_quieter_goes_first(
    pair: tuple[int, int], factor: float, quieter: int
) -> None:
    given = inputs(same=pair, factor=factor)
    order = rankings_by("cosine", given)[HIDDEN].order
    assert float(scores_of("cosine", given)[HIDDEN][quieter]) == pytest.approx(0.0, abs=1e-6)
    (other,) = set(pair) - {quieter}
    assert order.index(other) < order.index(quieter)


def test_one_of_each_direction_stays() -> None:
    """Copies of one unit all go before any unit that says something of its own."""
    given = inputs()
    weight, bias = given.program.parameters()["mlp.0.weight"], given.program.parameters()["mlp.0.bias"]
    with torch.no_grad():
        for copy in range(1, 20):
            weight[copy], bias[copy] = weight[0], bias[0]
    order = rankings_by("cosine", given)[HIDDEN].order
    assert len(set(order[:5]) & set(range(20))) == 1


def test_how_alike_two_units_are_does_not_depend_on_their_sizes() -> None:
    one, two = inputs(), inputs()
    with torch.no_grad():
        two.program.parameters()["mlp.0.weight"][:12] *= 8.0
        two.program.parameters()["mlp.0.bias"][:12] *= 8.0
    mine, other = (rankings_by("cosine", given)[HIDDEN] for given in (one, two))
    assert mine.losses[23] == pytest.approx(other.losses[23], rel=1e-4)


def test_a_unit_amid_all_others_goes_first() -> None:
    given = inputs()
    parameters = given.program.parameters()
    with torch.no_grad():
        for name, axis in (("mlp.0.weight", 0), ("mlp.0.bias", 0), ("mlp.2.weight", 1)):
            weight = parameters[name]
            weight.select(axis, 6).copy_(weight.mean(axis))
    assert int(scores_of("geometric-median", given)[HIDDEN].argmin()) == 6


def test_of_many_that_are_the_same_the_odd_one_stays() -> None:
    given = inputs()
    parameters = given.program.parameters()
    with torch.no_grad():
        for name, axis in (("mlp.0.weight", 0), ("mlp.0.bias", 0), ("mlp.2.weight", 1)):
            weight = parameters[name]
            for unit in set(range(24)) - {13}:
                weight.select(axis, unit).copy_(weight.select(axis, 0))
    values = scores_of("geometric-median", given)[HIDDEN]
    assert int(values.argmax()) == 13
    same = torch.tensor([unit for unit in range(24) if unit != 13])
    torch.testing.assert_close(values[same], values[0].expand(23), rtol=1e-6, atol=1e-4)


def test_distances_are_those_between_the_weights() -> None:
    given = inputs()
    parameters = given.program.parameters()
    table, layer = parameters["user.weight"].detach().double(), parameters["mlp.0.weight"].detach().double()[:, :16]
    scales = [
        p.detach().double().square().mean().sqrt() for p in (parameters["user.weight"], parameters["mlp.0.weight"])
    ]
    vectors = torch.cat([table / scales[0], layer / scales[1]]).T
    expected = torch.cdist(vectors, vectors).sum(1)
    torch.testing.assert_close(scores_of("geometric-median", given)["user.weight:1"], expected, rtol=1e-5, atol=1e-5)
