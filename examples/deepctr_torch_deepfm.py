"""DeepFM of DeepCTR-Torch, trained by that library, compressed here, and served without either.

pip install deepctr-torch
python examples/deepctr_torch_deepfm.py

The rows are generated; with your own, fill `rows()` from them: DeepCTR-Torch takes ids and numbers as the columns of one
array, and so does its artifact.
"""

import os
import sys

# Before the import: without it ONNX Runtime writes a device id and sends usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from recprune_export import compress

FIELDS = {"user": 2000, "item": 1000, "category": 20}  # ids of each
NUMBERS = ("price", "age")
ROWS = 8000


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return requests, float32 [rows, fields + numbers], and clicks, float32 [rows]: what a factorisation model can learn."""
    rng = np.random.default_rng(seed)
    ids = {name: (size * rng.random(ROWS) ** 2).astype(int) for name, size in FIELDS.items()}
    taste = {name: rng.normal(size=(size, 4)) for name, size in FIELDS.items()}
    numbers = rng.normal(size=(ROWS, len(NUMBERS)))
    logit = (taste["user"][ids["user"]] * taste["item"][ids["item"]]).sum(1) + 0.5 * numbers[:, 0]
    clicks = rng.random(ROWS) < 1 / (1 + np.exp(-logit))
    requests = np.column_stack([*ids.values(), numbers])
    return requests.astype(np.float32), clicks.astype(np.float32)


def trained(requests: np.ndarray, clicks: np.ndarray) -> nn.Module:
    """Train as DeepCTR-Torch's own documentation does."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat, get_feature_names
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(name, size, embedding_dim=16) for name, size in FIELDS.items()]
    columns += [DenseFeat(name, 1) for name in NUMBERS]
    model = DeepFM(columns, columns, dnn_hidden_units=(128, 64), device="cpu", seed=0)
    model.compile("adam", "binary_crossentropy", metrics=["auc"])
    by_name = dict(zip(get_feature_names(columns), requests.T, strict=True))
    model.fit(by_name, clicks, batch_size=256, epochs=2, verbose=0)
    return model.eval()


def main() -> None:
    """Train, compress with the rows to tune and measure on, serve."""
    try:
        import deepctr_torch  # noqa: F401
    except ImportError:
        sys.exit("This example needs DeepCTR-Torch: pip install deepctr-torch")
    requests, clicks = rows()
    result = compress(
        trained(requests, clicks),
        torch.from_numpy(requests[:4]),
        "artifacts/deepfm",
        data={"X": requests, "clicked": clicks},  # X is what its forward calls the request
        labels="clicked",
        sparsity=0.7,
        epochs=1,
        latency_batch_sizes=(1, 256),
    )
    auc = {name: metrics["auc"] for name, metrics in result.metrics.items()}
    print(
        f"{result.reduction.parameters:.1%} of the parameters are gone; AUC {auc['dense']:.4f} -> {auc['pruned']:.4f}"
    )

    session = ort.InferenceSession(result.target / "model.onnx", providers=["CPUExecutionProvider"])
    print("score:", session.run(None, {"X": requests[:1]})[0])
    print(f"Next: recprune-export verify {result.target}")


if __name__ == "__main__":
    main()
