"""Operators that are written out as others answer as before, can be pruned, and go to ONNX."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.onnx import export_onnx, make_session, run
from tests.properties import check_any_plan, prunable


class Distances(nn.Module):
    """Minus the distance of a user to each candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(9, 6), nn.Embedding(40, 6)

    def forward(self, user: Tensor, candidates: Tensor) -> Tensor:
        return -torch.cdist(self.users(user).unsqueeze(1), self.items(candidates)).squeeze(1)


@pytest.mark.parametrize("candidates", [5, 30])  # PyTorch computes many of them by a product
def test_distances_of_all_pairs(tmp_path: Path, candidates: int) -> None:
    module = Distances()
    request = {"user": torch.tensor([0, 4, 2]), "candidates": torch.randint(40, (3, candidates))}
    program, analysis = check_any_plan(module, *request.values())
    assert {("users.weight", 1), ("items.weight", 1)} <= prunable(analysis)
    torch.testing.assert_close(program(request)["output"], module(*request.values()))
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {name: values.numpy() for name, values in request.items()})
    np.testing.assert_allclose(found["output"], module(*request.values()).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_a_distance_of_zero_has_a_slope() -> None:
    program, _ = check_any_plan(Distances(), torch.tensor([0, 4, 2]), torch.randint(40, (3, 30)))
    users, items = (program.parameters()[f"{name}.weight"] for name in ("users", "items"))
    with torch.no_grad():
        items[:3] = users[:3]
    request = {"user": torch.tensor([0, 1, 2]), "candidates": torch.arange(30).expand(3, 30)}
    gradients = torch.autograd.grad(program(request)["output"].sum(), [users, items])
    assert all(gradient.isfinite().all() for gradient in gradients)


def zeroed_diagonal(h: Tensor) -> Tensor:
    scores = h @ h.transpose(1, 2)
    torch.diagonal(scores, dim1=1, dim2=2).zero_()
    return scores @ h


def rotary(h: Tensor) -> Tensor:
    turned = torch.empty_like(h)
    turned[..., ::2] = -h[..., 1::2]
    turned[..., 1::2] = h[..., ::2]
    return turned


def cleared_place(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0].zero_()
    return h


def filled_place(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0].fill_(0.5)
    return h


class Written(nn.Module):
    """An operator that writes in place, between a table with a layer and a layer."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.write = write
        self.table, self.hidden, self.last = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, history: Tensor) -> Tensor:
        return self.last(self.write(torch.relu(self.hidden(self.table(history)))))


@pytest.mark.parametrize("write", [zeroed_diagonal, rotary, cleared_place, filled_place])
def test_what_is_written_in_place_can_be_pruned_and_exported(write: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    module, history = Written(write), torch.randint(20, (3, 5))
    program, analysis = check_any_plan(module, history)
    assert {("table.weight", 1), ("hidden.weight", 0)} <= prunable(analysis)
    torch.testing.assert_close(program({"history": history})["output"], module(history))
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {"history": history.numpy()})
    np.testing.assert_allclose(found["output"], module(history).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_frequencies_that_are_picked_go_to_onnx(tmp_path: Path) -> None:
    def lowest(h: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(h, dim=1)
        return torch.fft.irfft(spectrum[:, [0, 1, 1]], n=5, dim=1)

    module, history = Written(lowest), torch.randint(20, (3, 5))
    program, analysis = check_any_plan(module, history)
    assert ("table.weight", 1) in prunable(analysis)
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {"history": history.numpy()})
    np.testing.assert_allclose(found["output"], module(history).detach().numpy(), rtol=1e-4, atol=1e-4)


class Normalized(nn.Module):
    """`linalg.norm` of vectors, B×D, as models that compare directions write it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = self.table(ids)
        unit = vectors / torch.linalg.norm(vectors, dim=-1, keepdim=True).clamp(min=1e-6)
        return unit @ self.table.weight.T


def test_the_norm_of_vectors_is_one_operator() -> None:
    program, analysis = check_any_plan(Normalized(), torch.tensor([0, 4, 2]))
    assert ("table.weight", 1) in prunable(analysis)
    assert torch.ops.aten.linalg_norm.default not in {node.target for node in program.module.graph.nodes}


class Interactions(nn.Module):
    """Products of all pairs of fields, for each dimension, as xDeepFM writes them."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(20, 8), nn.Linear(8, 6)
        self.last, self.equation = nn.Linear(4 * 4 * 6, 2), equation

    def forward(self, ids: Tensor) -> Tensor:
        fields = torch.relu(self.hidden(self.table(ids)))  # B×4×6
        return self.last(torch.einsum(self.equation, fields, fields).flatten(1))


@pytest.mark.parametrize("equation", ["bhd,bmd->bhmd", "bhd, bmd -> bdmh", "bhd,bmd->bmhd"])
def test_an_einsum_without_a_sum_is_a_product(equation: str, tmp_path: Path) -> None:
    module, ids = Interactions(equation), torch.randint(20, (3, 4))
    program, analysis = check_any_plan(module, ids)
    assert {("table.weight", 1), ("hidden.weight", 0)} <= prunable(analysis)
    assert torch.ops.aten.einsum.default not in {node.target for node in program.module.graph.nodes}
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {"ids": ids.numpy()})
    np.testing.assert_allclose(found["output"], module(ids).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["bhd,bmd->bhm", "bhd,bmd->bd", "...d,...d->...d"])
def test_other_einsums_stay(equation: str) -> None:
    module, ids = Interactions(equation).table, torch.randint(20, (3, 4))

    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = module

        def forward(self, ids: Tensor) -> Tensor:
            return torch.einsum(equation, self.table(ids), self.table(ids))

    program, _ = check_any_plan(Scored(), ids)
    assert torch.ops.aten.einsum.default in {node.target for node in program.module.graph.nodes}
    torch.testing.assert_close(program({"ids": ids})["output"], Scored()(ids))


class Bucketed(nn.Module):
    def __init__(self, right: bool) -> None:
        super().__init__()
        self.table, self.right = nn.Embedding(5, 6), right
        self.register_buffer("edges", torch.tensor([-1.0, 0.0, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.table(torch.searchsorted(self.edges, x, right=self.right)).sum(1)


@pytest.mark.parametrize("right", [False, True])
def test_a_search_among_edges(tmp_path: Path, right: bool) -> None:
    module, x = Bucketed(right).eval(), torch.tensor([-2.0, -1.0, 0.2, 0.5, 3.0, float("nan")])
    program, analysis = check_any_plan(module, x)
    assert ("table.weight", 1) in prunable(analysis)
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {"x": x.numpy()})
    np.testing.assert_allclose(found["output"], module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [30, 700])  # compared with every edge, and a binary search
def test_numbers_in_buckets(tmp_path: Path, count: int) -> None:
    class Buckets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(count + 1, 4)
            self.register_buffer("edges", torch.linspace(0, 1, count))

        def forward(self, x: Tensor) -> Tensor:
            return self.table(torch.bucketize(x, self.edges)).sum((1, 2))  # type: ignore[arg-type]

    module, x = Buckets().eval(), torch.rand(5, 3)
    program, _ = check_any_plan(module, x)
    found = run(make_session(export_onnx(program, tmp_path / "model.onnx").path, 1), {"x": x.numpy()})
    np.testing.assert_allclose(found["output"], module(x).detach().numpy(), rtol=1e-5, atol=1e-6)
