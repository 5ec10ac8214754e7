"""Small models, each with something that an export can get wrong."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recprune_export.program import Program
from recprune_export.program.capture import capture

ROWS = 30
LENGTH = 5

Request = dict[str, Tensor]


class Fields(nn.Module):
    """Two tables of three fields, a batch-norm in each place where one may stand, dropout, a sum over fields."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(ROWS, 4), nn.Embedding(7, 4)
        self.scaling = nn.BatchNorm1d(3)
        self.first, self.normed = nn.Linear(11, 6), nn.BatchNorm1d(6)
        self.second, self.last = nn.BatchNorm1d(6, affine=False), nn.Linear(6, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, request: Request) -> Request:
        user, item = self.user(request["user"]), self.item(request["item"])
        summed = torch.stack([user, item, self.item(request["last"])], 1).sum(1)
        hidden = self.first(torch.cat([user, summed, self.scaling(request["numeric"])], 1))
        hidden = self.second(self.dropout(torch.relu(self.normed(hidden))))
        return {"click": self.last(hidden).squeeze(-1)}


class Attention(nn.Module):
    """Self-attention over a history, its table tied to the scores; the first `guarded` positions attend to themselves."""

    def __init__(self, guarded: int, every_position: bool = False) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(ROWS, 8, padding_idx=0), nn.Embedding(LENGTH, 8)
        self.norm = nn.LayerNorm(8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.every_position = every_position
        self.register_buffer("causal", torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())
        self.register_buffer("itself", torch.diag(torch.arange(LENGTH) < guarded))

    def forward(self, request: Request) -> Request:
        history = request["history"]
        allowed = (self.causal & (history > 0)[:, None, None, :]) | self.itself
        hidden = self.norm(self.items(history) + self.positions(torch.arange(LENGTH)))
        query, key, value = (self._divide(part(hidden)) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2).flatten(2)
        hidden = hidden + attended
        return {"scores": (hidden if self.every_position else hidden[:, -1]) @ self.items.weight.T}

    def _divide(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 4)).transpose(1, 2)


class SplitWeight(nn.Module):
    """One weight, of which each half is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3))

    def forward(self, request: Request) -> Request:
        first, second = self.weight.chunk(2)
        return {"score": (F.linear(request["history"], first) * F.linear(request["history"], second)).sum((1, 2))}


class SharedLinear(nn.Module):
    """One linear layer for a vector and for a list of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, request: Request) -> Request:
        return {"score": (self.linear(request["history"]) * self.linear(request["numeric"])[:, None]).sum((1, 2))}


class Awkward(nn.Module):
    """Fields called as operators and weights are, one that is not used; outputs that are an input, or returned twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear, self.bias = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Parameter(torch.rand(4))

    def forward(self, request: Request) -> Request:
        both = torch.cat([self.linear(self.table(request["cat"])), self.table(request["linear"])], 1)
        score = torch.relu(both).sum(1) + request["bias"] * self.bias.sum()
        computed_again = torch.relu(both).sum(1) + request["bias"] * self.bias.sum()
        return {"relu": score, "again": score, "computed again": computed_again, "same": request["linear"]}


def ids(rows: int, *shape: int) -> Tensor:
    return torch.randint(0, rows, shape)


def example(name: str) -> tuple[nn.Module, Request]:
    """Return a model, its parameters and statistics far from their initial values, and a request."""
    torch.manual_seed(0)
    history = {"history": ids(ROWS, 4, LENGTH)}
    numeric = {"numeric": torch.randn(4, 3)}
    vectors = {"history": torch.randn(4, 2, 3)}
    awkward = {"cat": ids(9, 4), "linear": ids(9, 4), "bias": torch.randn(4), "table.weight": torch.randn(4)}
    module, request = {
        "fields": lambda: (Fields(), {"user": ids(ROWS, 4), "item": ids(7, 4), "last": ids(7, 4), **numeric}),
        "attention": lambda: (Attention(guarded=LENGTH), history),
        "partly guarded": lambda: (Attention(guarded=2), history),
        "positions": lambda: (Attention(guarded=LENGTH, every_position=True), history),
        "shared": lambda: (SharedLinear(), {**vectors, **numeric}),
        "split weight": lambda: (SplitWeight(), vectors),
        "awkward": lambda: (Awkward(), awkward),
    }[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
    return module, request


def program(name: str) -> Program:
    """Return the model of that name, captured."""
    module, request = example(name)
    return capture(module, (request,))


NAMES = ("fields", "attention", "partly guarded", "positions", "shared", "awkward")
