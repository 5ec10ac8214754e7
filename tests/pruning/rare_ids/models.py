"""Models whose tables are read in every way that counts for rows."""

import torch
from torch import Tensor, nn

from recprune_export.program import Program
from recprune_export.program.capture import capture
from tests.properties import no_zeros

USERS, ITEMS, TAGS, LENGTH = 40, 23, 17, 4

Request = dict[str, Tensor]


class Fields(nn.Module):
    """A table of one field, one of two fields, and a multi-valued field with a padding id that is masked by id."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.padding = padding
        self.user, self.item = nn.Embedding(USERS, 6), nn.Embedding(ITEMS, 6)
        self.tags = nn.Embedding(TAGS, 6, padding_idx=padding)
        self.mlp = nn.Sequential(nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, request: Request) -> Request:
        known = (request["tags"] != self.padding).to(torch.float32).unsqueeze(-1)
        tags = (self.tags(request["tags"]) * known).sum(1) / known.sum(1).clamp_min(1.0)
        vectors = [self.user(request["user"]), self.item(request["item"]), self.item(request["last"]), tags]
        return {"click": self.mlp(torch.cat(vectors, 1)).squeeze(1)}


class Columns(nn.Module):
    """One matrix of ids whose columns are fields with offsets into one table, written as an index."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(30, 5))
        self.register_buffer("offsets", torch.tensor([0, 10, 18]))
        self.head = nn.Linear(15, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table[ids + self.offsets].flatten(1)).squeeze(1)  # type: ignore[no-any-return, operator]


class Tied(nn.Module):
    """Scores all items with the table that reads the history; the users' table is only looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.users = nn.Embedding(ITEMS, 6, padding_idx=0), nn.Embedding(USERS, 6)
        self.positions = nn.Embedding(LENGTH, 6)

    def forward(self, request: Request) -> Request:
        hidden = (self.items(request["history"]) + self.positions(torch.arange(LENGTH))).mean(1)
        return {"scores": (hidden + self.users(request["user"])) @ self.items.weight.T}


def fields(padding: int = 0) -> Program:
    request = {name: torch.ones(2, dtype=torch.int64) for name in ("user", "item", "last")}
    return capture(no_zeros(Fields(padding)), ({**request, "tags": torch.ones(2, LENGTH, dtype=torch.int64)},))


def columns() -> Program:
    return capture(no_zeros(Columns()), (torch.ones(2, 3, dtype=torch.int64),))


def tied() -> Program:
    request = {"history": torch.ones(2, LENGTH, dtype=torch.int64), "user": torch.ones(2, dtype=torch.int64)}
    return capture(no_zeros(Tied()), (request,))
