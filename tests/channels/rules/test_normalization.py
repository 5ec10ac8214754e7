from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.properties import Tower, check_any_plan, prunable, reasons

X = torch.randn(3, 4)


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_keeps_its_statistics(affine: bool) -> None:
    _, analysis = check_any_plan(Tower(nn.LayerNorm(6, elementwise_affine=affine)), X)
    assert ("first.weight", 0) in prunable(analysis)


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm_keeps_its_statistics(affine: bool) -> None:
    _, analysis = check_any_plan(Tower(nn.RMSNorm(6, elementwise_affine=affine)), X)
    assert ("first.weight", 0) in prunable(analysis)


def test_batch_norm_goes_with_its_layer() -> None:
    _, analysis = check_any_plan(Tower(nn.BatchNorm1d(6)), X)
    assert {("operator.weight", 0), ("operator.running_mean", 0), ("first.weight", 0)} <= prunable(analysis)


class WithoutGain(nn.Module):
    """(0 - mean) / std: batch-norm without gain makes a constant, not zero, of a masked channel."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.reduce = nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), reduce

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(self.a(x)))


@pytest.mark.parametrize("reduce", [lambda h: h.sum(1), lambda h: h.mean(1)])
def test_a_sum_over_masked_constants_keeps_them_as_a_number(reduce: Callable[[Tensor], Tensor]) -> None:
    _, analysis = check_any_plan(WithoutGain(reduce), X)
    assert ("a.weight", 0) in prunable(analysis)


def test_what_would_still_count_a_masked_constant_freezes_it() -> None:
    _, analysis = check_any_plan(WithoutGain(lambda h: h.norm(dim=1)), X)
    assert not analysis.groups
    assert reasons(analysis, "a.weight", 0)


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.LayerNorm(6, elementwise_affine=False)])
def test_a_norm_counts_what_masked_channels_are(norm: nn.Module) -> None:
    _, analysis = check_any_plan(Tower(nn.Sequential(nn.Sigmoid(), norm)), X)
    assert {("first.weight", 0), ("last.weight", 1)} <= prunable(analysis)


def test_a_layer_norm_over_what_varies_when_masked_is_frozen() -> None:
    class Mixed(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.operator(self.first(x) + x[:, :1]))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Mixed(nn.LayerNorm(6)), X)
    assert ("first.weight", 0) not in prunable(analysis)
    assert "would not make it constant" in reasons(analysis, "first.weight", 0)


@pytest.mark.parametrize("operator", [lambda h: h.mean(1, keepdim=True), lambda h: h.sum(1, keepdim=True)])
def test_sums_and_means_keep_what_they_count(operator: object) -> None:
    _, analysis = check_any_plan(Tower(operator, left=1), X)
    assert ("first.weight", 0) in prunable(analysis)


@pytest.mark.parametrize(
    "operator", [lambda h: h.softmax(1), lambda h: h.log_softmax(-1), lambda h: h.sigmoid().softmax(1)]
)
def test_a_softmax_counts_what_masked_channels_are(operator: Callable[[Tensor], Tensor]) -> None:
    _, analysis = check_any_plan(Tower(operator), X)
    assert {("first.weight", 0), ("last.weight", 1)} <= prunable(analysis)


def test_a_softmax_over_another_axis_than_the_last_counts_them_too() -> None:
    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slots, self.key, self.layer = nn.Parameter(torch.zeros(6, 4)), nn.Linear(4, 6), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            shares = torch.stack([self.key(x), self.key(self.layer(x))], 2).softmax(1)  # B E 2
            return shares.transpose(1, 2) @ self.slots

    _, analysis = check_any_plan(Memory(), X)
    assert {("slots", 0), ("key.weight", 0)} <= prunable(analysis)


def test_attention_over_channels_goes_with_what_it_weighs() -> None:
    class Pooled(nn.Module):
        """Two streams of the same width, each weighed by a softmax over its channels."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.deep = nn.Embedding(20, 6), nn.Linear(6, 6)
            self.shares, self.last = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)]), nn.Linear(6, 1)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            h = self.deep(x).relu()
            return self.last(x * self.shares[0](x).softmax(-1) + h * self.shares[1](h).softmax(-1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Pooled(), torch.arange(4))
    assert {("table.weight", 1), ("deep.weight", 0), ("shares.0.weight", 0)} <= prunable(analysis)


def test_learned_shares_of_fields_stay_and_hold_nothing_back() -> None:
    class Regulated(nn.Module):
        """Each field weighed by a share of its own, repeated over its dimensions."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.shares = nn.Embedding(20, 6), nn.Parameter(torch.zeros(3))
            self.mlp = nn.Sequential(nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, ids: Tensor) -> Tensor:
            shares = self.shares.softmax(-1).unsqueeze(-1).repeat(1, 6).view(1, -1)
            return self.mlp(shares * self.table(ids).flatten(1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Regulated(), torch.arange(12).reshape(4, 3))
    assert ("table.weight", 1) in prunable(analysis)
    assert ("shares", 0) not in prunable(analysis)


def test_a_softmax_over_what_varies_when_masked_is_frozen() -> None:
    class Mixed(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.first(x) + x[:, :1]).softmax(1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Mixed(None), X)
    assert ("first.weight", 0) not in prunable(analysis)
    assert "would not make it constant" in reasons(analysis, "first.weight", 0)


def test_a_norm_of_negative_order_is_zero_where_one_channel_is() -> None:
    class Harmonic(Tower):
        def forward(self, x: Tensor) -> Tensor:
            first = self.first(x)
            return self.last(first / first.norm(-1, dim=1, keepdim=True).clamp_min(0.1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Harmonic(None), X)
    assert ("first.weight", 0) not in prunable(analysis)
    assert reasons(analysis, "first.weight", 0)


class OverFields(nn.Module):
    """A layer norm over fields and dimensions at once, beside an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 6), nn.LayerNorm([3, 6])
        self.mlp = nn.Sequential(nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.mlp(self.norm(self.table(ids)).flatten(1))  # type: ignore[no-any-return]


def test_a_norm_over_two_axes_stays_while_the_rest_is_cut() -> None:
    _, analysis = check_any_plan(OverFields(), torch.randint(20, (3, 3)))
    assert ("mlp.0.weight", 0) in prunable(analysis)
    assert ("table.weight", 1) not in prunable(analysis)
