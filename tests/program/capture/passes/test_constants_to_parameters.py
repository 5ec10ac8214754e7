"""Weights are weights, whatever holds them: tables kept as constants, and models frozen as a whole."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recprune_export.bundle import verify
from recprune_export.pipeline import CompressionResult, compress_program
from recprune_export.program.capture import capture
from recprune_export.settings import Settings
from tests.properties import check_any_plan, prunable


class Cached(nn.Module):
    """Dot products of vectors that were computed beforehand, kept as a buffer and as a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("users", torch.randn(50, 8))
        self.items = torch.randn(70, 8, requires_grad=True)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users[user] * self.items[item]).sum(-1)


class Encoder(nn.Module):
    """A table and two layers; items are scored by vectors that are no parameters. Masks stay what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(40, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.items = torch.randn(60, 8)
        self.register_buffer("mask", torch.ones(3, 3).tril())
        self.register_buffer("genres", (torch.rand(40, 8) > 0.5).float())

    def forward(self, history: Tensor) -> Tensor:
        hidden = self.mask @ (self.table(history) + self.genres[history])
        return self.last(torch.relu(self.first(hidden[:, -1]))) @ self.items.T


def ids(*shape: int) -> Tensor:
    return torch.randint(1, 40, shape, generator=torch.Generator().manual_seed(0))


def test_dimensions_of_cached_tables_can_go() -> None:
    program, analysis = check_any_plan(Cached(), ids(8), ids(8))
    assert {(name, 1) for name in program.parameters()} == prunable(analysis)
    assert analysis.tables == program.parameters().keys()


def test_scoring_by_cached_vectors_is_a_layer_that_is_not_trained() -> None:
    program, analysis = check_any_plan(Encoder(), ids(8, 3))
    (items,) = [name for name, p in program.parameters().items() if p.numel() == 60 * 8]
    assert {name for name, p in program.parameters().items() if not p.requires_grad} == {items}
    assert any(tensor == items for tensor, _ in prunable(analysis))


def test_cached_vectors_that_are_looked_up_and_multiplied_are_one_weight() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.layer = torch.randn(60, 8), nn.Linear(8, 8)

        def forward(self, history: Tensor) -> Tensor:
            return torch.relu(self.layer(self.items[history].mean(1))) @ self.items.T

    program, analysis = check_any_plan(Tied(), ids(8, 3))
    assert [name for name, p in program.parameters().items() if p.numel() == 60 * 8] == ["items"]
    assert ("items", 1) in prunable(analysis)


def test_masks_and_one_hot_features_are_no_weights() -> None:
    program = capture(Encoder(), (ids(8, 3),))
    shapes = [tuple(p.shape) for p in program.parameters().values()]
    assert shapes.count((40, 8)) == 1  # the table, and not the genres
    assert (3, 3) not in shapes


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def test_a_model_frozen_as_a_whole_can_be_tuned_and_is_left_frozen() -> None:
    module = frozen(Encoder())
    program = capture(module, (ids(8, 3),))
    assert all(p.requires_grad for p in program.parameters().values())
    assert not any(p.requires_grad for p in module.parameters())


def test_what_is_frozen_beside_other_weights_stays_frozen() -> None:
    module = Encoder()
    module.table.requires_grad_(False)
    program = capture(module, (ids(8, 3),))
    assert not program.parameters()["table.weight"].requires_grad
    assert program.parameters()["first.weight"].requires_grad


def compressed(
    module: nn.Module, request: dict[str, Tensor], target: Path, patch: pytest.MonkeyPatch
) -> CompressionResult:
    patch.setattr("recprune_export.finetuning.task.SAMPLED_STEPS", 3)
    settings = Settings(sparsity=0.5, latency_batch_sizes=(1,), batch_size=16, epochs=1)
    result = compress_program(capture(module, (), request), target, settings)
    verify(target)
    return result


def test_cached_tables_are_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compressed(Cached(), {"user": ids(8), "item": ids(8)}, tmp_path / "b", monkeypatch)
    assert result.reduction.tables >= 0.5
    assert result.counts["dense"].rest.parameters == 0
    assert not any("in the rest" in note for note in result.notes)  # there was nothing to reach


def test_a_frozen_model_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compressed(frozen(Encoder()), {"history": ids(8, 3)}, tmp_path / "b", monkeypatch)
    assert result.reduction.tables > 0.2  # genres are a table to whoever reads the file
    assert result.reduction.rest > 0.4
