import torch
from torch import Tensor, nn

from tests.properties import check_any_plan, group_of, prunable

IDS = torch.tensor([0, 3, 5])


class Dot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(9, 6), nn.Embedding(7, 6)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user(user) * self.item(item)).sum(1)


class Batched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 6) for _ in range(3))
        self.out = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(torch.bmm(self.query(x), self.key(x).transpose(1, 2)) / 6**0.5, -1)
        return self.out(torch.matmul(weights, self.value(x)))  # type: ignore[no-any-return]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)

    def forward(self, item: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.items(item))) @ self.items.weight.T


def test_a_dot_product_ties_two_tables() -> None:
    _, analysis = check_any_plan(Dot(), IDS, IDS)
    assert group_of(analysis, "user.weight", 1) == {("user.weight", 1), ("item.weight", 1)}


def test_queries_go_with_keys_and_values_with_what_reads_them() -> None:
    _, analysis = check_any_plan(Batched(), torch.randn(3, 5, 4))
    assert ("key.weight", 0) in group_of(analysis, "query.weight", 0)
    assert ("out.weight", 1) in group_of(analysis, "value.weight", 0)
    assert ("query.weight", 0) not in group_of(analysis, "value.weight", 0)


def test_a_table_that_also_scores_is_one_table() -> None:
    program, analysis = check_any_plan(Tied(), IDS)
    assert [name for name in program.parameters() if "items" in name] == ["items.weight"]
    assert {("items.weight", 1), ("mix.weight", 0), ("mix.weight", 1)} <= group_of(analysis, "items.weight", 1)
    assert ("items.weight", 0) not in prunable(analysis)


def test_inputs_and_outputs_of_the_model_stay() -> None:
    _, analysis = check_any_plan(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(3, 4))
    assert prunable(analysis) == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}
