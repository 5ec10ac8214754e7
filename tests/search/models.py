"""A small model that can be learned, with rows that it labels."""

import numpy as np
import torch
from torch import nn

from recprune_export.api import load_model, make_task
from recprune_export.finetuning import Task
from recprune_export.program import Program
from recprune_export.settings import Settings


class Product(nn.Module):
    """A user and an item of 16 dimensions, of which 4 matter, and a small MLP."""

    def __init__(self, users: int, items: int, hidden: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, 16), nn.Embedding(items, 16)
        self.mlp = nn.Sequential(nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """[B], [B] -> [B]."""
        u, i = self.user(user), self.item(item)
        return (u * i).sum(1) + 0.1 * self.mlp(torch.cat([u, i], 1)).squeeze(1)


def make_columns(module: Product, users: int, items: int, rows: int) -> dict[str, np.ndarray]:
    """Shrink the dimensions of a product model that do not matter, and return `rows` rows whose clicks are drawn from its answers."""
    with torch.no_grad():
        for table in (module.user.weight, module.item.weight):
            table[:, 4:] *= 0.02
    rng = np.random.default_rng(0)
    columns = {"user": rng.integers(0, users, rows), "item": rng.integers(0, items, rows)}
    with torch.no_grad():
        logits = module(torch.from_numpy(columns["user"]), torch.from_numpy(columns["item"])).numpy()
    columns["click"] = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return columns


def make_job(users: int, items: int, hidden: int, rows: int, settings: Settings) -> tuple[Program, Task]:
    """Return a product model, and the task of `rows` rows whose clicks are drawn from its answers."""
    torch.manual_seed(0)
    module = Product(users, items, hidden)
    columns = make_columns(module, users, items, rows)
    loaded = load_model(module.eval(), (torch.arange(4), torch.arange(4)), {})
    return loaded.program, make_task(loaded, columns, "click", settings)
