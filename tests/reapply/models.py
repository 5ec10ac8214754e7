"""A small recommender with weights of a seed, saved as a program, and rows for it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.program.capture import capture

USERS, ITEMS, ROWS = 400, 300, 3000


class Clicks(nn.Module):
    def __init__(self, width: int, users: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, 16), nn.Embedding(ITEMS, 16)
        self.mlp = nn.Sequential(nn.Linear(33, width), activation(), nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user: Tensor, item: Tensor, price: Tensor) -> Tensor:
        """[B], [B] ids and [B] numbers -> [B]."""
        return self.mlp(torch.cat([self.user(user), self.item(item), price[:, None]], 1)).squeeze(1)  # type: ignore[no-any-return]


def save_clicks(
    path: Path, seed: int, *, width: int = 48, users: int = USERS, activation: type[nn.Module] = nn.ReLU
) -> Path:
    """Write a `.pt2` with the weights of `seed`."""
    torch.manual_seed(seed)
    module = Clicks(width, users, activation).eval()
    capture(module, (), {"user": torch.arange(4), "item": torch.arange(4), "price": torch.linspace(-1, 1, 4)}).save(
        path
    )
    return path


def write_rows(path: Path, seed: int = 0) -> Path:
    """Write rows with labels, and as many ids that are frequent as that are rare."""
    rng = np.random.default_rng(seed)
    user, item = (rng.integers(0, limit, ROWS) * rng.integers(0, 2, ROWS) for limit in (USERS, ITEMS))
    price = rng.standard_normal(ROWS).astype(np.float32)
    np.savez(path, user=user, item=item, price=price, click=((user + item) % 3 == 0).astype(np.int64))
    return path
