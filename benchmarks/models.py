"""The recommenders of the benchmarks: untrained, of the sizes that are served."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recprune_export.recommenders import DCNv2, DeepFM, InputSpec, SASRec, TwoTower

FIELDS, ROWS, NUMERIC, DIM = 26, 10_000, 13, 64  # as Criteo has them, its ids hashed to 10,000
HIDDEN = (1024, 512, 256)
ITEMS, LENGTH, CANDIDATES = 10_000, 50, 1_000
CRITEO = InputSpec(categorical={f"field{i}": ROWS for i in range(FIELDS)}, n_numeric=NUMERIC, labels=("click",))


@dataclass(frozen=True)
class Size:
    """Embedding dimensions, and the fraction of the hidden units that the dense model has."""

    dim: int = DIM
    fraction: float = 1.0

    def hidden(self, *widths: int) -> tuple[int, ...]:
        """Return the widths of hidden layers, in multiples of 16 as ours (docs/decisions/hidden-widths-in-blocks-of-16.md)."""
        return tuple(max(16, int(width * self.fraction) // 16 * 16) for width in widths)


DENSE = Size()
STEPS = 256  # fractions of hidden units that `find_size` tries


@dataclass(frozen=True)
class Model:
    """A module in eval mode, and the keyword arguments of `forward` for a batch of two."""

    module: nn.Module
    example: Mapping[str, Any]


class CriteoDLRM(nn.Module):
    """The DLRM of Naumov et al. 2019: the dot products of all pairs of fields, and the bottom's output, into the top."""

    pairs: Tensor

    def __init__(self, dim: int, bottom: Sequence[int], top: Sequence[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS, dim) for _ in range(FIELDS))
        self.bottom = _mlp(NUMERIC, *bottom, dim)
        self.register_buffer("pairs", torch.triu_indices(FIELDS + 1, FIELDS + 1, 1), persistent=False)
        pairs = FIELDS * (FIELDS + 1) // 2
        self.top = nn.Sequential(*_mlp(dim + pairs, *top), nn.Linear(top[-1], 1))

    def forward(self, numeric: Tensor, ids: Tensor) -> Tensor:
        """[B, 13] numbers and [B, 26] ids to logits, [B]."""
        bottom = self.bottom(numeric)
        vectors = torch.stack([bottom, *(table(ids[:, i]) for i, table in enumerate(self.tables))], dim=1)
        dots = vectors @ vectors.transpose(1, 2)
        inputs = torch.cat([bottom, dots[:, self.pairs[0], self.pairs[1]]], dim=1)
        return self.top(inputs).squeeze(1)  # type: ignore[no-any-return]


class CandidateSASRec(nn.Module):
    """SASRec that scores the candidates of each history, and not all items."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = SASRec(InputSpec(items=ITEMS, max_length=LENGTH, labels=("next_item",)), dim=dim)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """[B, L] items and [B, C] items to scores, [B, C]."""
        state = self.body.encode(history)[:, -1]
        return (self.body.items(candidates) @ state.unsqueeze(2)).squeeze(2)


class Fields(nn.Module):
    """A recommender of fields that takes one matrix of ids, as the DLRM does."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, numeric: Tensor, ids: Tensor) -> Tensor:
        """[B, 13] numbers and [B, 26] ids to logits, [B]."""
        request = {"numeric": numeric, **{f"field{i}": ids[:, i] for i in range(FIELDS)}}
        return self.body(request)["click"]  # type: ignore[no-any-return]


def _mlp(*widths: int) -> nn.Sequential:
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in layer))


def _fields(body: nn.Module) -> Model:
    example = {"numeric": torch.randn(2, NUMERIC), "ids": torch.randint(0, ROWS, (2, FIELDS))}
    return Model(body if isinstance(body, CriteoDLRM) else Fields(body), example)


def _sasrec(size: Size) -> Model:
    example = {"history": torch.randint(1, ITEMS, (2, LENGTH)), "candidates": torch.randint(1, ITEMS, (2, CANDIDATES))}
    return Model(CandidateSASRec(size.dim), example)


MODELS: Mapping[str, Callable[[Size], Model]] = {
    "dlrm": lambda size: _fields(CriteoDLRM(size.dim, size.hidden(512, 256), size.hidden(1024, *HIDDEN))),
    "deepfm": lambda size: _fields(DeepFM(CRITEO, size.dim, size.hidden(1024, *HIDDEN))),
    "dcn_v2": lambda size: _fields(DCNv2(CRITEO, size.dim, size.hidden(1024, *HIDDEN))),
    "sasrec": _sasrec,
    "two_tower": lambda size: _fields(
        TwoTower(CRITEO, size.dim, size.hidden(1024, 512, 64), user_fields=[f"field{i}" for i in range(FIELDS // 2)])
    ),
}
ONE_WIDTH = ("sasrec",)  # its tables are as wide as its layers


def make(name: str, size: Size = DENSE) -> Model:
    """Return a model with the weights of seed 0."""
    torch.manual_seed(0)
    model = MODELS[name](size)
    model.module.eval()
    return model


def find_size(name: str, tables: int, rest: int) -> Size:
    """Return the largest size with at most so many parameters in the tables and in the rest."""

    def count(size: Size) -> tuple[int, int]:
        with torch.device("meta"):
            module = MODELS[name](size).module
        in_tables = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Embedding))
        return in_tables, sum(p.numel() for p in module.parameters()) - in_tables

    dim = max(1, bisect_right(range(1, DIM + 1), tables, key=lambda dim: count(Size(dim))[0]))
    sizes = [Size(dim, step / STEPS) for step in range(1, STEPS + 1)]
    return sizes[max(0, bisect_right(sizes, rest, key=lambda size: count(size)[1]) - 1)]
