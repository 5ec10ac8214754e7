"""What it gives to compute the user's part once: 500 candidates of one request, one thread.

The same pruned program (sparsity .7, structure alone) as a file in which every input has a row for each candidate, and
as one in which the user's inputs have a single row. Contestants interleaved in one process, another user each round.
Prints a table, and JSON as the last line.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from latency import prune
from models import ROWS
from torch import Tensor, nn

from recprune_export.onnx import ServingConfig, count, export_onnx
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.recommenders import InputSpec, SASRec, build_recommender
from recprune_export.validation import make_onnxruntime_backend, measure_latency, sample_cycles

CANDIDATES, SPARSITY = 500, 0.7
USER = tuple(f"user{i}" for i in range(13))
FIELDS = InputSpec(categorical=dict.fromkeys((*USER, *(f"item{i}" for i in range(13))), ROWS), labels=("click",))
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "two_tower": {"dim": 64, "hidden": (512, 256, 64), "user_fields": USER},
    "dlrm": {"dim": 64, "hidden": (512, 256), "bottom": ()},
    "deepfm": {"dim": 64, "hidden": (512, 256)},
    "dcn_v2": {"dim": 64, "hidden": (512, 256)},
}


class HistoryAndCandidate(nn.Module):
    """A history encoded by SASRec, and an MLP over it and one candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.body = SASRec(InputSpec(items=ROWS, max_length=50, labels=("next_item",)), dim=64)
        self.head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, history: Tensor, candidate: Tensor) -> Tensor:
        """[B, L] items and [B] items to logits, [B]."""
        state = self.body.encode(history)[:, -1]
        return self.head(torch.cat([state, self.body.items(candidate)], dim=1)).squeeze(1)  # type: ignore[no-any-return]


def programs() -> Mapping[str, tuple[Program, Sequence[str]]]:
    """Return pruned programs, and which inputs the candidates share."""
    made = {
        name: (capture(build_recommender(name, FIELDS, options).eval(), (FIELDS.example_request(),)), USER)
        for name, options in OPTIONS.items()
    }
    ids = torch.ones(2, 50, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    made["sasrec and MLP"] = (capture(HistoryAndCandidate().eval(), ids), ("history",))
    return {name: (prune(program, SPARSITY), shared) for name, (program, shared) in made.items()}


def main() -> None:
    """Measure all of them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    print(f"{'':>16} {'each row':>12} {'shared once':>12}  times faster")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (program, shared) in programs().items():
            files = {
                label: export_onnx(
                    program, Path(scratch) / f"{name}-{label}.onnx", serving=ServingConfig((CANDIDATES,), names)
                )
                for label, names in (("each row", ()), ("shared once", tuple(shared)))
            }
            once = files["shared once"]
            requests = sample_cycles(once.signature, (CANDIDATES,), seed=1)
            contestants = [make_onnxruntime_backend(label, f.path, 1) for label, f in files.items()]
            report = measure_latency(contestants, requests, threads=1, seconds=3.0)
            slow, fast = (report.percentiles(CANDIDATES, label).p50 for label in files)
            ratio = report.ratio(CANDIDATES, "each row", "shared once")
            print(
                f"{name:>16} {slow:>9.3f} ms {fast:>9.3f} ms  {ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"
            )
            parameters = {label: count(file.path).total.parameters for label, file in files.items()}
            results[name] = {**report.to_dict(), "parameters": parameters, "ratio": vars(ratio)}
    print(json.dumps({"benchmark": "shared_inputs", "candidates": CANDIDATES, "threads": 1, "results": results}))


if __name__ == "__main__":
    main()
