"""Small recommenders, exported by PyTorch's older exporter (TorchScript) and by its newer one."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES, DIM, NUMBERS, LENGTH, ITEMS = (40, 30, 20), 8, 3, 6, 30


class Dlrm(nn.Module):
    """Tables, a bottom MLP, dot products of all pairs, a top MLP with a batch-norm."""

    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, DIM) for size in SIZES)
        self.bottom = nn.Sequential(nn.Linear(NUMBERS, 16), nn.ReLU(), nn.Linear(16, DIM))
        fields = len(SIZES) + 1
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1))
        width = DIM + fields * (fields - 1) // 2
        self.top = nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(numbers)
        rows = torch.stack([x, *(table(ids[:, field]) for field, table in enumerate(self.tables))], 1)
        dots = rows @ rows.transpose(1, 2)
        hidden = torch.cat([x, dots[:, self.pairs[0], self.pairs[1]]], 1)
        return torch.sigmoid(self.top(hidden)).squeeze(1)


class Attention(nn.Module):
    """Self-attention with a causal mask, layer norms, and a layer of its own for each position."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(DIM, DIM) for _ in range(4))
        self.first, self.second = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.wide, self.narrow = nn.Linear(DIM, 16), nn.Linear(16, DIM)
        self.register_buffer("mask", torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        def divide(part: Tensor) -> Tensor:
            return part.reshape(x.shape[0], LENGTH, 2, DIM // 2).transpose(1, 2)

        query, key, value = (divide(part(x)) for part in (self.query, self.key, self.value))
        scores = (query @ key.transpose(-1, -2) / (DIM // 2) ** 0.5).masked_fill(self.mask, float("-inf"))
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)
        x = self.first(x + self.out(attended))
        return self.second(x + self.narrow(F.gelu(self.wide(x)))), None


class Histories(nn.Module):
    """Attention over a history, a GRU, an LSTM or an RNN; scores by the item table."""

    def __init__(self, kind: str = "attention") -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(ITEMS, DIM), nn.Embedding(LENGTH, DIM)
        self.encoder = Attention() if kind == "attention" else getattr(nn, kind)(DIM, DIM, batch_first=True)
        for norm in (part for part in self.encoder.modules() if isinstance(part, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1.0, 0.1)
            nn.init.normal_(norm.bias, 0.0, 0.1)

    def forward(self, history: Tensor) -> Tensor:
        x, _ = self.encoder(self.items(history) + self.positions.weight)
        scores: Tensor = x[:, -1] @ self.items.weight.T
        return scores


class Bags(nn.Module):
    """An `EmbeddingBag` over bags that offsets delimit, or over the rows of a matrix."""

    def __init__(self, mode: str = "sum") -> None:
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(ITEMS, DIM, mode=mode), nn.Linear(DIM, 1)

    def forward(self, ids: Tensor, offsets: Tensor | None = None) -> Tensor:
        score: Tensor = self.head(self.table(ids, offsets)).squeeze(1)
        return score


def make_dlrm(seed: int = 0) -> nn.Module:
    """A DLRM whose batch-norm has statistics."""
    torch.manual_seed(seed)
    module = Dlrm().eval()
    norm = module.get_submodule("top.1")
    norm.get_buffer("running_mean").normal_(0, 0.3)
    norm.get_buffer("running_var").uniform_(0.5, 1.5)
    return module


def dlrm_request(rows: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randint(0, size, (rows,), generator=generator) for size in SIZES], 1)
    return torch.randn(rows, NUMBERS, generator=generator), ids


def save(
    module: nn.Module,
    request: tuple[Tensor | None, ...],
    path: Path,
    names: Sequence[str],
    opset: int = 13,
    *,
    dynamo: bool = False,
    axes: dict[str, dict[int, str]] | None = None,
    free: bool = True,
    shapes: tuple[dict[int, torch.export.Dim] | None, ...] | None = None,
) -> Path:
    """Export a module with the batch free, or fixed at that of `request`; with the newer exporter, `shapes` are the free sizes."""
    axes = axes or {name: {0: "rows"} for name in (*names, "score")}
    if dynamo and free and shapes is None:
        shapes = tuple({0: torch.export.Dim("rows")} for _ in names)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), request, path, dynamo=dynamo, opset_version=opset, input_names=list(names), output_names=["score"],
            dynamic_axes=axes if free and not dynamo else None, dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    return path
