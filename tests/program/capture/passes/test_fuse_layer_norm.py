"""Layer norms written step by step are captured as the operator, so that what they normalise can be pruned."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recprune_export.program.capture import capture
from tests.properties import Tower, check_any_plan, no_zeros, prunable

X = torch.randn(3, 4)


def as_in_bert(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt((x - mean).pow(2).mean(-1, keepdim=True) + 0.1)


def by_variance(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) * torch.rsqrt(x.var(1, unbiased=False, keepdim=True) + 0.1)


def by_sum_of_squares(x: Tensor) -> Tensor:
    centred = x - x.mean(1).unsqueeze(1)
    return centred / torch.sqrt((centred * centred + 0.1).sum(1).unsqueeze(1))


NORMS = (as_in_bert, by_variance, by_sum_of_squares)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_normalised_step_by_step_can_be_pruned(norm: Callable[[Tensor], Tensor]) -> None:
    program, analysis = check_any_plan(Tower(norm), X)
    assert {("first.weight", 0), ("last.weight", 1)} <= prunable(analysis)
    assert torch.ops.aten.layer_norm.default in {node.target for node in program.module.graph.nodes}


@pytest.mark.parametrize("norm", NORMS)
def test_the_answers_stay(norm: Callable[[Tensor], Tensor]) -> None:
    module = no_zeros(Tower(norm))
    torch.testing.assert_close(capture(module, (X,)).module(X)[0], module(X))


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: (x - x.mean(1, keepdim=True)) / torch.sqrt((x * x).mean(1, keepdim=True) + 0.1),
        lambda x: (x - x.mean(0, keepdim=True)) / torch.sqrt((x - x.mean(0, keepdim=True)).pow(2).mean(0) + 0.1),
        lambda x: (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True) + 0.1),
    ],
)
def test_what_only_looks_like_a_layer_norm_is_left(norm: Callable[[Tensor], Tensor]) -> None:
    program, _ = check_any_plan(Tower(norm), X)
    assert torch.ops.aten.layer_norm.default not in {node.target for node in program.module.graph.nodes}
