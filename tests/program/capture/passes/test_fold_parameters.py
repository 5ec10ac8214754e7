"""What a model computes from parameters alone before it looks up rows is computed once."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program.capture import capture
from tests.properties import check_any_plan, no_zeros, prunable


class Propagated(nn.Module):
    """Light graph convolution: dot products of users and items after two steps over a sparse graph."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(5, 6), nn.Embedding(7, 6)
        edges = torch.tensor([[0, 1, 4, 6, 8, 11], [6, 8, 11, 0, 1, 4]])
        graph = torch.sparse_coo_tensor(edges, torch.rand(6) + 0.5, (12, 12)).coalesce()
        self.register_buffer("graph", graph)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        layers = [torch.cat([self.users.weight, self.items.weight])]
        for _ in range(2):
            layers.append(nn.functional.dropout(torch.sparse.mm(self.graph, layers[-1]), 0.2, self.training))
        users, items = torch.stack(layers, 1).mean(1).split([5, 7])
        return (users[user] * items[item]).sum(1)


def test_a_graph_recommender_is_a_lookup_in_serving(tmp_path: Path) -> None:
    module = no_zeros(Propagated())
    request = {"user": torch.tensor([0, 4, 2]), "item": torch.tensor([6, 1, 3])}
    program, analysis = check_any_plan(module, *request.values())
    tables = {name for name, p in program.parameters().items() if p.shape in ((5, 6), (7, 6))}
    assert len(program.parameters()) == 2
    assert {(name, 1) for name in tables} <= prunable(analysis)
    assert analysis.tables == tables
    with torch.no_grad():
        expected = module(**request)
        torch.testing.assert_close(program(request)["output"], expected)
    file = export_onnx(program, tmp_path / "model.onnx")
    answered = run(make_session(file.path, 1), {name: values.numpy() for name, values in request.items()})
    np.testing.assert_allclose(answered["output"], expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_valid_ids_are_those_of_what_is_looked_up() -> None:
    program = capture(no_zeros(Propagated()), (torch.tensor([0, 1]), torch.tensor([0, 1])))
    assert [i.ids for i in program.signature.inputs] == [((0, 4),), ((0, 6),)]


def test_what_is_not_looked_up_stays_a_computation() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.gate, self.last = nn.Embedding(9, 6), nn.Parameter(torch.zeros(6)), nn.Linear(6, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(self.table(ids) * torch.sigmoid(self.gate))  # type: ignore[no-any-return]

    program, analysis = check_any_plan(Gated(), torch.tensor([1, 2]))
    assert set(program.parameters()) == {"table.weight", "gate", "last.weight", "last.bias"}
    assert {("table.weight", 1), ("gate", 0)} <= prunable(analysis)


class Restated(nn.Module):
    """Layers whose weights training states in other terms."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6), nn.Linear(8, 1)
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.third = nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in (self.first, self.second, self.third):
            x = torch.relu(layer(x))
        return self.head(x)  # type: ignore[no-any-return]


def test_a_weight_that_is_stated_in_other_terms_is_a_weight_in_serving() -> None:
    torch.manual_seed(0)
    program, analysis = check_any_plan(Restated(), torch.tensor([0, 4, 2]))
    weights = {name: p for name, p in program.parameters().items() if p.ndim == 2}
    assert sorted(tuple(p.shape) for p in weights.values()) == [(1, 8), (8, 6), (8, 8), (8, 8), (9, 6)]
    assert {(name, 1) for name in weights} <= prunable(analysis)
