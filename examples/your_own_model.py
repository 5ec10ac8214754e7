"""Compress your own recommender from Python, and serve it with ONNX Runtime.

python examples/your_own_model.py
"""

import os

# Before the import: without it ONNX Runtime writes a device id and sends usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from recprune_export import compress


class Scorer(nn.Module):
    """User and item tables, and an MLP. Any module that torch.export can capture works."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(5000, 32), nn.Embedding(2000, 32)
        self.mlp = nn.Sequential(nn.Linear(67, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Ids [B], ids [B], numbers [B, 3] to logits [B]."""
        return self.mlp(torch.cat([self.users(user), self.items(item), context], dim=1)).squeeze(1)


def main() -> None:
    """Run the whole job without data: fine-tuning only towards the outputs of the dense model."""
    example = (torch.tensor([1, 2]), torch.tensor([3, 4]), torch.zeros(2, 3))
    result = compress(
        Scorer(), example, "artifacts/your_own_model", sparsity=0.7, epochs=1, latency_batch_sizes=(1, 256)
    )
    print(f"{result.reduction.parameters:.1%} of the parameters are gone; the bundle is {result.target}")
    for note in result.notes:
        print(note)

    session = ort.InferenceSession(result.target / "model.onnx", providers=["CPUExecutionProvider"])
    request = {"user": np.array([7]), "item": np.array([11]), "context": np.zeros((1, 3), dtype=np.float32)}
    print("score:", session.run(None, request)[0])


if __name__ == "__main__":
    main()
