"""A `.pt2` that was exported for one batch size answers others as the module does, or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program import Program, load_program
from recprune_export.program.loading.saved_graphs.free_batch import convert_exported


class Ranker(nn.Module):
    """A table of width 3 and a network."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 3)
        self.head = nn.Linear(6, 3)
        self.answer = answer

    def forward(self, user: Tensor, x: Tensor) -> Tensor:
        return self.answer(self.head(torch.cat([self.table(user), x], 1)))


class Sequence(nn.Module):
    """Attention over a history, then a recurrent layer whose first state has the batch in it."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 8, batch_first=True)

    def forward(self, history: Tensor) -> Tensor:
        rows = self.items(history)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0].view(history.size(0), -1, 8)
        first = torch.zeros(1, history.size(0), 8)
        return self.recurrent(rows, first)[0][:, -1] @ self.items.weight.T


class Encoder(nn.Module):
    """A transformer over ten items, in four heads of width 8."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(20, 32), nn.Embedding(10, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, history: Tensor) -> Tensor:
        positions = torch.arange(history.size(1)).unsqueeze(0).expand(history.size(0), -1)
        return self.layers(self.items(history) + self.positions(positions))[:, -1] @ self.items.weight.T


def ranker(answer: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]:
    return Ranker(answer), lambda rows: (torch.randint(0, 20, (rows,)), torch.randn(rows, 3))


CASES: dict[str, Callable[[], tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]]] = {
    "layers": lambda: ranker(lambda x: x.relu().sum(1)),
    "view": lambda: ranker(lambda x: x.view(x.size(0), 3, 1)),
    "flat": lambda: ranker(
        lambda x: x.unsqueeze(2).expand(x.size(0), 3, 4).reshape(x.size(0) * 3, 4).sum(1).view(x.size(0), 3)
    ),
    "new tensors": lambda: ranker(
        lambda x: torch.cat([x, x.new_ones(x.size(0), 1), torch.full((x.size(0), 2), 0.5)], 1)
    ),
    "sequence": lambda: (Sequence(), lambda rows: (torch.randint(0, 20, (rows, 5)),)),
}


def export(module: nn.Module, request: tuple[Any, ...]) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), request)


def check_batches(program: Program, module: nn.Module, make: Callable[[int], tuple[Tensor, ...]]) -> None:
    for rows in (1, 2, 7):
        request = make(rows)
        with torch.no_grad():
            torch.testing.assert_close(program.module(*request)[0], module(*request))


@pytest.mark.parametrize("rows", [1, 2, 3, 6])  # 3 and 6 are widths of the network as well
@pytest.mark.parametrize("name", CASES)
def test_a_fixed_batch_is_freed(name: str, rows: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, make = CASES[name]()
    torch.export.save(export(module, make(rows)), tmp_path / "model.pt2")
    loaded = load_program(tmp_path / "model.pt2")
    assert f"exported for {rows} rows" in loaded.program.notes[0]
    check_batches(loaded.program, module, make)


@pytest.mark.parametrize("rows", [1, 4, 8, 10])  # the heads, their width, the length of a history
def test_a_batch_that_equals_sizes_of_attention_is_freed(rows: int) -> None:
    torch.manual_seed(0)
    module = Encoder().eval()
    program = convert_exported(export(module, (torch.randint(0, 20, (rows, 10)),)))
    check_batches(program, module, lambda size: (torch.randint(0, 20, (size, 10)),))


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x - x.mean(0),
        lambda x: x[torch.arange(x.size(0)).flip(0)],
        lambda x: x + torch.arange(float(x.size(0)))[:, None],
        lambda x: x.view(-1, 4, 3).sum(1),
    ],
    ids=["mean over the rows", "constant index", "number of the row", "pairs of rows"],
)
def test_rows_that_depend_on_each_other_are_refused(answer: Callable[[Tensor], Tensor]) -> None:
    module, make = ranker(answer)
    with pytest.raises(CaptureError, match=r"requests of 4 rows only.*dynamic_shapes"):
        convert_exported(export(module, make(4)))


class Bag(nn.Module):
    """A sum of the rows of a table, for ids with offsets in either order."""

    def __init__(self, *, offsets_first: bool) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 6, mode="sum")
        self.offsets_first = offsets_first

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        ids, offsets = (other, one) if self.offsets_first else (one, other)
        return self.bag(ids, offsets).sum(1)


@pytest.mark.parametrize("offsets_first", [True, False])
def test_a_fixed_number_of_elements_is_freed(offsets_first: bool) -> None:
    tensors = (torch.randint(0, 50, (13,)), torch.tensor([0, 3, 4, 9, 11]))
    module = Bag(offsets_first=offsets_first).eval()
    program = convert_exported(export(module, tensors[::-1] if offsets_first else tensors))
    assert "one number of rows and elements" in program.notes[0]
    (spec,) = program.signature.inputs
    ids = torch.tensor([[4, 7, -1], [5, -1, -1]])
    flat, offsets = torch.tensor([4, 7, 5]), torch.tensor([0, 2])
    (answer,) = program({spec.name: ids}).values()
    torch.testing.assert_close(answer, module(offsets, flat) if offsets_first else module(flat, offsets))


def test_a_program_without_an_example_is_freed_too() -> None:
    module, make = CASES["view"]()
    exported = export(module, make(4))
    exported.example_inputs = None
    program = convert_exported(exported)
    check_batches(program, module, make)
    assert [spec.name for spec in program.signature.inputs] == ["user", "x"]
