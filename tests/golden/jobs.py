"""The three jobs whose answers are held: how a bundle is made from the golden files, and the facts that are compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import torch

import recprune_export
from recprune_export.quantization import _quantize as quantise

FOLDER = Path(__file__).parent
EPOCHS = ["--epochs", "15", "--learning-rate", "0.005"]
TRAINING = {
    "dlrm": ["--recommender", "dlrm", "--label", "clicked", "--dim", "16", "--hidden", "64,32", *EPOCHS],
    "deepfm": ["--recommender", "deepfm", "--label", "clicked", "--dim", "12", "--hidden", "64,32", *EPOCHS],
    "sasrec": ["--recommender", "sasrec", "--sequence", "user,item,position", "--dim", "16", "--max-length", "12", *EPOCHS],
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A recommender, its rows, and what is asked of it."""

    recommender: str
    rows: str
    sparsity: float
    quantize: str = "none"


JOBS = (Job("dlrm", "clicks", 0.7), Job("sasrec", "sequences", 0.6), Job("deepfm", "clicks", 0.8, "int8"))


def write_inputs(job: Job, folder: Path) -> tuple[Path, Path]:
    """Write the checkpoint and the rows of a job as files that the main job takes."""
    content = json.loads((FOLDER / f"{job.recommender}_checkpoint.json").read_text())
    with np.load(FOLDER / f"{job.recommender}_weights.npz") as weights:
        content["state"] = {name: torch.from_numpy(weights[name]) for name in weights.files}
    checkpoint, rows = folder / f"golden_{job.recommender}.pt", folder / f"golden_{job.rows}.parquet"
    torch.save(content, checkpoint)
    with np.load(FOLDER / f"rows_{job.rows}.npz") as columns:
        pl.DataFrame({name: columns[name] for name in columns.files}).write_parquet(rows)
    return checkpoint, rows


def run_job(job: Job, folder: Path) -> Path:
    """Run the main job on the golden inputs; return the bundle."""
    checkpoint, rows = write_inputs(job, folder)
    target = folder / f"bundle_{job.recommender}"
    with pytest.MonkeyPatch.context() as patch:
        defaults: dict[str, Any] = quantise.quantize.__kwdefaults__
        patch.setitem(defaults, "stopwatch", by_position)
        recprune_export.compress(
            checkpoint,
            target=target,
            data=rows,
            sparsity=job.sparsity,
            quantize=job.quantize,
            epochs=1,
            batches=(1, 64),
        )
    return target


def by_position(
    part: Any, name: str | tuple[str, ...], forms: Sequence[str], requests: Any
) -> dict[str, dict[int, float]]:
    """Stand in for measurements of quantized forms: each form is a tenth faster than the one before, the first is fp32."""
    return {form: dict.fromkeys(requests, 0.9**rank) for rank, form in enumerate(("fp32", *forms))}


def bundle_facts(bundle: Path) -> dict[str, Any]:
    """Return the plan, and the number of bytes and operators of the file."""
    plan = json.loads((bundle / "plan.json").read_text())
    model = onnx.load(bundle / "model.onnx")
    operators = [node.op_type for node in model.graph.node]
    return {
        "plan": [{"group": g["group"], "width": g["width"], "keep": g["keep"]} for g in plan["groups"]],
        "weight_bytes": sum(len(onnx.numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer),
        "file_bytes": (bundle / "model.onnx").stat().st_size,
        "operators": {name: operators.count(name) for name in sorted(set(operators))},
        "outputs": [output.name for output in model.graph.output],
    }
