import pytest
import torch
from torch import Tensor, nn

from tests.properties import Tower, check_any_plan, prunable, reasons

X = torch.randn(3, 4)


@pytest.mark.parametrize(
    "operator",
    [
        torch.relu, torch.tanh, torch.sigmoid, nn.functional.gelu, nn.functional.silu, nn.functional.leaky_relu, torch.abs,
        torch.square, torch.exp, lambda x: x + 1.0, lambda x: 2.0 * x, lambda x: x / 3.0, lambda x: x - x.relu(),
        lambda x: x.clamp_min(0.5), lambda x: x * torch.sigmoid(x), lambda x: torch.where(x > 0, x, 0.1 * x),
        nn.PReLU(), nn.PReLU(6), nn.Dropout(0.5), lambda x: x.to(torch.float64).float(), lambda x: x.pow(2), torch.neg,
    ],
)  # fmt: skip
def test_hidden_units_go_through(operator: object) -> None:
    _, analysis = check_any_plan(Tower(operator), X)
    assert {("first.weight", 0), ("first.bias", 0), ("last.weight", 1)} <= prunable(analysis)


def test_what_is_added_goes_together() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.c(h + torch.relu(self.b(h)))

    _, analysis = check_any_plan(Residual(), X)
    (group,) = analysis.groups
    assert {("a.weight", 0), ("b.weight", 0), ("b.weight", 1), ("c.weight", 1)} <= set(group.axes())


def test_a_sum_over_what_masking_does_not_make_zero_is_frozen() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return (self.a(x) + x[:, :1]).sum(1)

    _, analysis = check_any_plan(Summed(), X)
    assert not analysis.groups
    assert reasons(analysis, "a.weight", 0)


def test_what_masked_channels_add_to_a_sum_is_added_as_a_constant() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Parameter(torch.zeros(3, 1))

        def forward(self, x: Tensor) -> Tensor:
            wide = torch.sigmoid(self.a(x).unsqueeze(1) + self.b)
            return torch.cat([wide.sum(2), wide.mean(2)], 1)

    _, analysis = check_any_plan(Summed(), X)
    assert {("a.weight", 0), ("a.bias", 0)} <= prunable(analysis)


def test_a_vector_that_scales_goes_with_what_it_scales() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gain, self.b = nn.Linear(4, 6), nn.Parameter(torch.ones(6)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.gain)

    _, analysis = check_any_plan(Scaled(), X)
    assert ("gain", 0) in prunable(analysis)
