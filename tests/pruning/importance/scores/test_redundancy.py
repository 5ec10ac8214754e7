import pytest
import torch

from recprune_export.pruning import rank_channels
from tests.pruning.importance.scores.inputs import HIDDEN, inputs, scores_of


@pytest.mark.parametrize(("pair", "factor", "quieter"), [((2, 9), 0.5, 9), ((2, 9), 3.0, 2), ((9, 2), 0.5, 2)])
def test_of_two_units_that_say_the_same_the_quieter_goes_first(
    pair: tuple[int, int], factor: float, quieter: int
) -> None:
    given = inputs(same=pair, factor=factor)
    order = rank_channels("cosine", given)[HIDDEN].order
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
    order = rank_channels("cosine", given)[HIDDEN].order
    assert len(set(order[:5]) & set(range(20))) == 1


def test_how_alike_two_units_are_does_not_depend_on_their_sizes() -> None:
    one, two = inputs(), inputs()
    with torch.no_grad():
        two.program.parameters()["mlp.0.weight"][:12] *= 8.0
        two.program.parameters()["mlp.0.bias"][:12] *= 8.0
    mine, other = (rank_channels("cosine", given)[HIDDEN] for given in (one, two))
    assert mine.losses[23] == pytest.approx(other.losses[23], rel=1e-4)
