"""A digest of everything that determines a pruned program, by which a search or a resumed run recognizes earlier results.

Current server CPUs have instructions for SHA-256: 1,350 MiB per CPU second, where BLAKE2b reaches 740.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recprune_export.data.histories.history_source import HistorySource, cut_batches
from recprune_export.data.row_source import BATCH_ROWS, RowSource
from recprune_export.data.rows import Ragged
from recprune_export.data.sequences import SequenceData
from recprune_export.environment import environment
from recprune_export.finetuning.kept_requests import KeptRequests
from recprune_export.finetuning.task import LabeledRows, NextItems, SampledRequests, Task
from recprune_export.program.program import Program
from recprune_export.program.row_chunks import row_chunks
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
    """Digest the model, the settings that a pruned program depends on, all rows, versions, and JSON values `extra`.

    Batches and requests follow from the rows or the signature, and from seeds, so they need not be sampled. Rows have the same digest in
    memory and in files, since only their content and order count. Time: one reading of the weights and of the rows. Memory: a batch of
    rows, and a chunk of rows of a tensor that is not contiguous.
    """
    digest = hashlib.sha256()
    packages = {name: environment()["packages"].get(name) for name in VERSIONS}
    values = [asdict(pruning), asdict(finetuning), seed, repr(task.config), repr(task.objective), packages, extra]
    _add_values(digest, values)
    _add_program(digest, program)
    if isinstance(task, SampledRequests):
        _add_program(digest, task.teacher, weights=task.teacher.module is not program.module)
        if isinstance(task, KeptRequests):
            _add_rows(digest, task.kept)
    elif isinstance(task, LabeledRows | NextItems):
        _add_values(digest, [type(task).__name__, task.deciding.name])  # the deciding metric selects the epoch
        if isinstance(task.data, SequenceData):
            _add_histories(digest, task.data.train)
        else:
            _add_rows(digest, task.data.train)
        for rows in (task.data.valid, task.data.test):
            _add_rows(digest, rows)
    return digest.hexdigest()


def _add_program(digest: Any, program: Program, *, weights: bool = True) -> None:
    _add_values(digest, [program.signature.to_dict(), program.module.code])
    if weights:
        _add_arrays(digest, program.module.state_dict())


def _add_rows(digest: Any, rows: RowSource) -> None:
    """Add rows batch by batch."""
    digest.update(f"{len(rows)} rows".encode())
    for batch in rows.batches(BATCH_ROWS):
        optional = {"weights": batch.weights, "groups": batch.groups}
        for arrays in (batch.inputs, batch.labels, {name: a for name, a in optional.items() if a is not None}):
            _add_arrays(digest, arrays)
        if batch.excluded_items is None:
            digest.update(b"none")
        else:
            _add_lists(digest, batch.excluded_items)


def _add_histories(digest: Any, histories: HistorySource) -> None:
    """Add histories batch by batch."""
    digest.update(f"{len(histories)} histories".encode())
    in_order = cut_batches(histories.windows(), BATCH_ROWS, Ragged.concatenate, lambda window: np.arange(len(window)))
    for batch in in_order:
        _add_lists(digest, batch)


def _add_lists(digest: Any, lists: Ragged) -> None:
    _add_arrays(digest, {"values": lists.values, "offsets": lists.offsets})


def _add_values(digest: Any, values: Any) -> None:
    digest.update(json.dumps(values, sort_keys=True).encode())


def _add_arrays(digest: Any, arrays: Mapping[str, np.ndarray | Tensor]) -> None:
    """Add names, dtypes, shapes and values."""
    digest.update(f"{len(arrays)} arrays".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        if isinstance(array, np.ndarray):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            continue
        weights = array.detach().cpu()
        for rows in row_chunks(weights):
            digest.update(weights[rows].contiguous().reshape(-1).view(torch.uint8).numpy().data)
