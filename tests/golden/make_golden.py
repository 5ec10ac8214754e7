"""Write the golden files: small trained recommenders, their rows, and the bundles that were made of them.

Run once, with the release whose answers are to be held; `test_golden.py` compares every later one with the files.

    python -m tests.golden.make_golden
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from tests.golden.jobs import FOLDER, JOBS, TRAINING, bundle_facts, run_job

ROWS = 6000


def write_rows(kind: str, path: Path) -> None:
    """Generate rows and keep them as arrays, so that they do not depend on the generator of a later release."""
    command = [sys.executable, "-m", "recprune_export", "generate", "--kind", kind, "--rows", str(ROWS), "--seed", "3"]
    subprocess.run([*command, "--quiet", "-o", str(path)], check=True)
    columns = pl.read_parquet(path)
    np.savez_compressed(FOLDER / f"rows_{kind}.npz", **{name: columns[name].to_numpy().astype(_dtype(columns[name])) for name in columns.columns})  # fmt: skip  # noqa: E501


def _dtype(column: pl.Series) -> Any:
    return str if column.dtype == pl.String else column.to_numpy().dtype


def train(name: str, rows: Path, folder: Path) -> None:
    """Train a recommender and keep its checkpoint as JSON and NPZ."""
    path = folder / f"{name}.pt"
    command = [sys.executable, "-m", "recprune_export", "train", "--data", str(rows), *TRAINING[name]]
    subprocess.run([*command, "--seed", "0", "--quiet", "-o", str(path)], check=True)
    content = torch.load(path, weights_only=True)
    state = {key: tensor.numpy() for key, tensor in content.pop("state").items()}
    (FOLDER / f"{name}_checkpoint.json").write_text(json.dumps(content))
    np.savez_compressed(FOLDER / f"{name}_weights.npz", **state)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in ("clicks", "sequences"):
            write_rows(kind, folder / f"{kind}.parquet")
        for job in JOBS:
            train(job.recommender, folder / f"{job.rows}.parquet", folder)
            bundle = run_job(job, folder)
            requests = np.load(bundle / "samples" / "inputs.npz")
            answers = np.load(bundle / "samples" / "outputs.npz")
            np.savez_compressed(FOLDER / f"{job.recommender}_requests.npz", **requests)
            np.savez_compressed(FOLDER / f"{job.recommender}_answers.npz", **answers)
            (FOLDER / f"{job.recommender}_bundle.json").write_text(json.dumps(bundle_facts(bundle), indent=1) + "\n")


if __name__ == "__main__":
    main()
