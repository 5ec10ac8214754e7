"""A digest of all that a pruned program depends on, by which a search or a resumed run recognizes earlier results."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recprune_export.data.batch import ROW_WEIGHTS
from recprune_export.environment import environment
from recprune_export.finetuning.task import LabeledRows, NextItems, Task
from recprune_export.program.program import Program
from recprune_export.settings import FineTuningSettings, PruningSettings

VERSIONS = ("recprune-export", "torch", "numpy")


def fingerprint(
    program: Program,
    pruning: PruningSettings,
    finetuning: FineTuningSettings,
    task: Task,
    seed: int = 0,
    *,
    extra: Any = None,
) -> str:
    """Digest the weights, the settings that a pruned program depends on, all rows, versions, and JSON values `extra`.

    The rows are read once, as an epoch of fine-tuning reads them.
    """
    digest = hashlib.sha256()
    _add(digest, program.module.state_dict())
    packages = {name: environment()["packages"].get(name) for name in VERSIONS}
    deciding = task.deciding.name if isinstance(task, LabeledRows | NextItems) else None  # it selects the epoch
    values = [asdict(pruning), asdict(finetuning), seed, repr(task.config), deciding, packages, extra]
    digest.update(json.dumps(values, sort_keys=True).encode())
    for request, labels in task.training_batches(0):
        _add(digest, request)
        _add(digest, labels)
    if isinstance(task, LabeledRows | NextItems):
        _add(digest, task.data.valid.inputs)
        _add(digest, task.data.valid.labels)
        weights = task.data.valid.weights
        _add(digest, {} if weights is None else {ROW_WEIGHTS: weights})
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
