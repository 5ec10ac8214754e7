"""The recommenders of the benchmarks: untrained, of the sizes that are served."""

from collections.abc import Callable, Mapping
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
class Model:
    """A module in eval mode, and the keyword arguments of `forward` for a batch of two."""

    module: nn.Module
    example: Mapping[str, Any]


class CriteoDLRM(nn.Module):
    """The DLRM of Naumov et al. 2019: the dot products of all pairs of fields, and the bottom's output, into the top."""

    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS, DIM) for _ in range(FIELDS))
        self.bottom = _mlp(NUMERIC, 512, 256, DIM)
        self.register_buffer("pairs", torch.triu_indices(FIELDS + 1, FIELDS + 1, 1), persistent=False)
        pairs = FIELDS * (FIELDS + 1) // 2
        self.top = nn.Sequential(*_mlp(DIM + pairs, 1024, *HIDDEN), nn.Linear(HIDDEN[-1], 1))

    def forward(self, numeric: Tensor, ids: Tensor) -> Tensor:
        """[B, 13] numbers and [B, 26] ids to logits, [B]."""
        bottom = self.bottom(numeric)
        vectors = torch.stack([bottom, *(table(ids[:, i]) for i, table in enumerate(self.tables))], dim=1)
        dots = vectors @ vectors.transpose(1, 2)
        inputs = torch.cat([bottom, dots[:, self.pairs[0], self.pairs[1]]], dim=1)
        return self.top(inputs).squeeze(1)  # type: ignore[no-any-return]


class CandidateSASRec(nn.Module):
    """SASRec that scores the candidates of each history, and not all items."""

    def __init__(self) -> None:
        super().__init__()
        self.body = SASRec(InputSpec(items=ITEMS, max_length=LENGTH, labels=("next_item",)), dim=DIM)

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


def _sasrec() -> Model:
    example = {"history": torch.randint(1, ITEMS, (2, LENGTH)), "candidates": torch.randint(1, ITEMS, (2, CANDIDATES))}
    return Model(CandidateSASRec(), example)


MODELS: Mapping[str, Callable[[], Model]] = {
    "dlrm": lambda: _fields(CriteoDLRM()),
    "deepfm": lambda: _fields(DeepFM(CRITEO, DIM, (1024, *HIDDEN))),
    "dcn_v2": lambda: _fields(DCNv2(CRITEO, DIM, (1024, *HIDDEN))),
    "sasrec": _sasrec,
    "two_tower": lambda: _fields(
        TwoTower(CRITEO, DIM, (1024, 512, 64), user_fields=[f"field{i}" for i in range(FIELDS // 2)])
    ),
}


def make(name: str) -> Model:
    """Return a model with the weights of seed 0."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.module.eval()
    return model
