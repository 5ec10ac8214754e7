import itertools

import pytest
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


def plain_decreases(found: Moments, order: list[int]) -> list[Tensor]:
    """The decrease of the loss by each channel before each selection of `order`, by one product of matrices each: O(D⁴)."""
    residual, remaining = found.covariance.clone(), torch.ones(len(order), dtype=torch.bool)
    floor = 1e-10 * residual.diagonal().max()
    decreases = []
    for channel in order:
        variance = residual.diagonal()
        decrease = ((residual @ found.gradients) * residual).sum(1) / variance.clamp_min(floor)
        decreases.append(decrease.where(remaining & (variance > floor), -1.0))
        if float(decreases[-1].max()) < 0.0:
            break
        column = residual[:, channel] / residual[channel, channel].sqrt()
        residual = residual - torch.outer(column, column)
        remaining[channel] = False
    return decreases


def channels(kind: str, width: int) -> Moments:
    torch.manual_seed(width)
    inputs = torch.randn(4 * width, width).double() @ torch.randn(width, width).double()
    slopes = torch.randn(4 * width, width).double()
    if kind == "low rank":
        inputs = torch.randn(4 * width, width // 3).double() @ torch.randn(width // 3, width).double()
    elif kind == "nearly low rank":
        inputs = inputs * 1e-4 + torch.randn(4 * width, width // 3).double() @ torch.randn(width // 3, width).double()
    elif kind == "copies":
        inputs = torch.cat([inputs[:, : width // 2], 2.0 * inputs[:, : width - width // 2] + 1.0], 1)
    elif kind == "dead":
        inputs[:, ::3], slopes[:, 1::3] = 0.0, 0.0
    elif kind == "few gradients of many scales":
        inputs = inputs @ torch.diag(torch.logspace(0, -5, width).double())
        slopes = torch.randn(4 * width, 3).double() @ torch.randn(3, width).double()
    return moments(inputs, slopes)


@pytest.mark.parametrize("width", [8, 65, 150])
@pytest.mark.parametrize(
    "kind", ["full rank", "low rank", "nearly low rank", "copies", "dead", "few gradients of many scales"]
)
def test_each_selected_channel_is_the_best_by_the_plain_form(kind: str, width: int) -> None:
    found = channels(kind, width)
    order, losses = greedy_order(found)
    assert sorted(order) == list(range(width))
    assert bool((losses.diff() <= 0.0).all())
    decreases = plain_decreases(found, order)
    first = float(decreases[0].max())
    for k, (channel, each) in enumerate(zip(order, decreases, strict=False)):
        largest = float(each.max())
        if largest < 1e-13 * first:
            break  # the rounding errors of the first decrease
        assert float(each[channel]) >= (1.0 - 1e-6) * largest
        assert float(losses[k] - losses[k + 1]) == pytest.approx(largest, rel=1e-6, abs=1e-13 * first)


def test_the_order_of_a_wide_layer_is_that_of_the_plain_form() -> None:
    found = channels("full rank", 384)
    order, _ = greedy_order(found)
    assert order == [int(each.argmax()) for each in plain_decreases(found, order)]
