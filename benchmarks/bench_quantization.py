"""The effect of `--quantize` on a pruned DLRM of the size of Criteo: bytes, and the speed-up by batch size.

The model is untrained, so the error of the answers means little and the gate is wide; quality is measured on trained models
(docs/decisions/quantized-files.md). One thread; sessions of the fp32 file and of the quantized file are created several times and
interleaved. Prints a table, and JSON as the last line.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from models import FIELDS, NUMERIC, ROWS, make

from recprune_export.environment import environment
from recprune_export.onnx import ServingConfig
from recprune_export.pipeline import export_pruned, make_sampled_task, prune
from recprune_export.program.capture import capture
from recprune_export.quantization import Mode, make_error_judge, quantize
from recprune_export.settings import FineTuningSettings, PruningSettings
from recprune_export.validation import (
    count_requests,
    log_ratio,
    make_onnxruntime_backend,
    measure_repeated_sessions,
    typical_time,
)
from recprune_export.validation.edge_requests import RequestArrays

BATCHES = (1, 32, 256, 1024)
MODES: tuple[Mode, ...] = ("fp16", "int8", "int4")
WIDE = 0.2  # of the answers' variance


def draw(rows: int, rng: np.random.Generator) -> RequestArrays:
    """Return a request of the DLRM."""
    numeric = rng.normal(size=(rows, NUMERIC)).astype(np.float32)
    return {"numeric": numeric, "ids": rng.integers(0, ROWS, size=(rows, FIELDS))}


def pruned_file(name: str, sparsity: float, path: Path) -> Path:
    """Export a model whose channels were cut, without tuning."""
    model = make(name)
    program = capture(model.module, (), dict(model.example))
    pruning = PruningSettings(sparsity, structured_fraction=1.0, score="magnitude-l2", refit=False)
    finetuning = FineTuningSettings(epochs=0)
    pruned = prune(program, pruning, finetuning, make_sampled_task(program, finetuning))
    return export_pruned(pruned, ServingConfig(BATCHES), path).path


def main() -> None:
    """Quantize at each sparsity, with each mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsities", default="0.7,0.9")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--seconds", type=float, default=0.4, help="for each batch size and seating")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    requests = {batch: [draw(batch, rng) for _ in range(count_requests(batch))] for batch in BATCHES}
    calibration = [draw(64, rng) for _ in range(8)]
    print("| sparsity | mode | bytes | int8 layers | table | " + " | ".join(f"batch {b}" for b in BATCHES) + " |")
    figures: dict[str, object] = {}
    print("|---" * (5 + len(BATCHES)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for sparsity in map(float, arguments.sparsities.split(",")):
            source = pruned_file("dlrm", sparsity, Path(folder) / f"{sparsity}.onnx")
            for mode in arguments.modes.split(","):
                target = Path(folder) / f"{sparsity}-{mode}.onnx"
                found = quantize(source, target, mode, calibration, requests, make_error_judge(calibration, WIDE))
                makers = {
                    "fp32": lambda path=source: make_onnxruntime_backend("fp32", path, 1),
                    "quantized": lambda path=found.path: make_onnxruntime_backend("quantized", path, 1),
                }
                seatings = measure_repeated_sessions(makers, requests, count=4, seconds=arguments.seconds, rng=rng)
                cells, ratios = [], {}
                for batch in BATCHES:
                    ratio = np.exp(np.mean([log_ratio(seating[batch], "fp32", "quantized") for seating in seatings]))
                    ratios[str(batch)] = float(ratio)
                    before = np.median([typical_time(seating[batch]["fp32"]) for seating in seatings])
                    cells.append(f"{before:.3f} ms, {ratio:.2f}×")
                layers = sum(choice.is_quantized for choice in found.plan.layers)
                forms = ", ".join(table.form for table in found.plan.tables)
                sizes = f"{found.bytes[0]:,} → {found.bytes[1]:,}"
                row = [f"{sparsity:g}", mode, sizes, f"{layers} of {len(found.plan.layers)}", forms, *cells]
                print(f"| {' | '.join(row)} |", flush=True)
                figures[f"{sparsity:g} {mode}"] = {"bytes": list(found.bytes), "times faster than fp32": ratios}
    print(json.dumps({"benchmark": "quantization", "environment": environment(), "figures": figures}))


if __name__ == "__main__":
    main()
