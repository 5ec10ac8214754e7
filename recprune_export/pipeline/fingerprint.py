"""A digest of all that a pruned program depends on: by it a search, or a run that was killed, knows its own results again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recprune_export.environment import environment
from recprune_export.finetuning.task import LabeledRows, NextItems, Task
from recprune_export.program.program import Program
from recprune_export.settings import Settings

# What has no influence on a pruned program.
SERVING_SETTINGS = frozenset(
    {
        "threads", "batches", "shared_inputs", "keep_dense", "max_drop", "target_speedup", "quantize", "max_quantize_drop",
        "licence", "triton",
    }
)  # fmt: skip
VERSIONS = ("recprune-export", "torch", "numpy")


def fingerprint(
    program: Program, settings: Settings, task: Task, *, exclude: Iterable[str] = (), extra: Any = None
) -> str:
    """Digest the weights, the settings but for those of serving and `exclude`, all rows, the versions, and JSON values `extra`.

    The rows are read once, as an epoch of tuning reads them.
    """
    digest = hashlib.sha256()
    _add(digest, program.module.state_dict())
    left_out = SERVING_SETTINGS | set(exclude)
    relevant = {name: value for name, value in settings.to_dict().items() if name not in left_out}
    packages = {name: environment()["packages"].get(name) for name in VERSIONS}
    stated = [relevant, repr(task.config), packages, extra]
    digest.update(json.dumps(stated, sort_keys=True).encode())
    for request, labels in task.training_batches(0):
        _add(digest, request)
        _add(digest, labels)
    if isinstance(task, LabeledRows | NextItems):
        _add(digest, task.data.valid.inputs)
        _add(digest, task.data.valid.labels)
    _add(digest, task.requests(64, seed=0))
    return digest.hexdigest()


def _add(digest: Any, arrays: Mapping[str, Any]) -> None:
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        if isinstance(values, Tensor):
            flat = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        else:
            flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        digest.update(flat.data)
