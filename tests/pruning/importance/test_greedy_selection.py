import itertools

import torch
from torch import Tensor

from recprune_export.pruning import Moments
from recprune_export.pruning.importance.greedy_selection import greedy_order


def moments(inputs: Tensor, slopes: Tensor) -> Moments:
    values = inputs.T @ inputs / len(inputs)
    mean = inputs.mean(0)
    return Moments(values, values - torch.outer(mean, mean), slopes.T @ slopes / len(slopes), values)


def lost(found: Moments, kept: list[int]) -> float:
    """The loss when the others are predicted by the kept ones, by least squares, written out."""
    c = found.covariance
    if not kept:
        return float((c * found.gradients).sum())
    residual = c - c[:, kept] @ torch.linalg.pinv(c[kept][:, kept]) @ c[kept]
    return float((residual * found.gradients).sum())


def test_losses_are_those_of_refitted_layers() -> None:
    torch.manual_seed(0)
    found = moments(torch.randn(400, 7).double() @ torch.randn(7, 7).double(), torch.randn(300, 7).double())
    order, losses = greedy_order(found)
    assert sorted(order) == list(range(7))
    for k in range(8):
        torch.testing.assert_close(float(losses[k]), lost(found, order[:k]), rtol=1e-6, atol=1e-8)


def test_the_first_channel_is_the_best_one_and_two_are_near_the_best_pair() -> None:
    torch.manual_seed(1)
    found = moments(torch.randn(400, 6).double() @ torch.randn(6, 6).double(), torch.randn(300, 6).double())
    order, losses = greedy_order(found)
    assert order[0] == min(range(6), key=lambda i: lost(found, [i]))
    best = min(lost(found, list(pair)) for pair in itertools.combinations(range(6), 2))
    assert float(losses[2]) <= 1.5 * best


def test_a_copy_of_a_channel_costs_nothing() -> None:
    torch.manual_seed(2)
    x = torch.randn(500, 4).double()
    found = moments(torch.cat([x, 2.0 * x, x + 1.0], 1), torch.randn(300, 12).double())
    order, losses = greedy_order(found)
    assert len({position % 4 for position in order[:4]}) == 4
    assert float(losses[4]) < 1e-8 * float(losses[0])


def test_a_channel_that_never_moves_or_never_matters_comes_last() -> None:
    torch.manual_seed(3)
    x, slopes = torch.randn(500, 5).double(), torch.randn(300, 5).double()
    x[:, 1] = 7.0
    found = moments(x, slopes)
    assert greedy_order(found)[0][-1] == 1
