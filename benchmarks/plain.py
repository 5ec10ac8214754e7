"""The alternatives to this project: PyTorch's exporter with default options, Torch-Pruning, and int8 quantization by ONNX Runtime.

As a script it prunes a model of `models.py` with Torch-Pruning and exports it, in a separate process, which may take too long or too much
memory:

    python benchmarks/plain.py dlrm REST_PARAMETERS OUT.onnx
"""

import contextlib
import io
import json
import logging
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from models import Model, make
from torch import nn

MEMORY, SECONDS = 8 << 30, 90  # bytes and seconds that Torch-Pruning may take for a model
ATTEMPTS = 3


def export_plain(model: Model, path: Path) -> Path:
    """Export a module with PyTorch's exporter as it comes, the batch dynamic."""
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in model.example}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model.module, kwargs=dict(model.example), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    program.save(path)
    return path


def quantize_plain(path: Path) -> Path:
    """Let ONNX Runtime quantize the linear layers of a file to int8, with dynamic ranges of activations."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name(f"{path.stem}-int8.onnx")
    quantize_dynamic(
        path, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True
    )
    return target


def prune_plain(name: str, rest: int, path: Path) -> str:
    """Prune with Torch-Pruning until no more than `rest` parameters are left outside of tables; say why not, if not."""
    command = [sys.executable, __file__, name, str(rest), str(path)]
    limit = (MEMORY, MEMORY)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
        )
    except subprocess.TimeoutExpired:
        return f"took more than {SECONDS} s"
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.strip()] or [f"ended with {done.returncode}"]
        return f"failed: {told[-1][:120]}"
    return ""


def rest_of(module: nn.Module) -> int:
    """Parameters outside of tables."""
    tables = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Embedding))
    return sum(p.numel() for p in module.parameters()) - tables


def _pruned(name: str, rest: int) -> Model:
    import torch_pruning as tp

    ratio = 1.0 - (rest / rest_of(make(name).module)) ** 0.5
    for _ in range(ATTEMPTS):
        model = make(name)
        heads = [part for part in model.module.modules() if isinstance(part, nn.Linear) and part.out_features == 1]
        pruner = tp.pruner.MetaPruner(
            model.module,
            dict(model.example),
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=heads,
            round_to=16,  # as ours
            forward_fn=lambda module, example: module(**example),
        )
        pruner.step()
        if rest_of(model.module) <= rest:
            break
        ratio += (1.0 - ratio) * (1.0 - (rest / rest_of(model.module)) ** 0.5) + 0.01
    return model


if __name__ == "__main__":
    pruned = _pruned(sys.argv[1], int(sys.argv[2]))
    export_plain(pruned, Path(sys.argv[3]))
    print(json.dumps({"parameters": sum(p.numel() for p in pruned.module.parameters())}))
