"""What shared rows cost: quality on the test rows that show an id which lost its row, and on those that do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recprune_export.codec import ToDictMixin
from recprune_export.finetuning.task import Predictor, Task
from recprune_export.onnx.counts import remap_bytes
from recprune_export.onnx.export import OnnxFile
from recprune_export.program.program import Program
from recprune_export.pruning.apply.soundness import Soundness
from recprune_export.pruning.rare_ids.find_tables import IdReader, UnprunableTable, find_prunable_tables
from recprune_export.pruning.rare_ids.row_plan import RowPlan
from recprune_export.validation.edge_requests import RequestArrays

DISTANCE_ROWS = 4096  # where there are no labels


@dataclass(frozen=True)
class SharedTable:
    """Rows of one table before and after, the shared one included; `inputs` name where its ids come from."""

    table: str
    inputs: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class SubsetQuality:
    """Metrics of `dense` and `pruned` on `rows` test rows; without labels the mean distance of their answers."""

    rows: int
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SharedRowReport(ToDictMixin):
    """What `--prune-rows` did: tables, proof, bytes that the remaps take in the file, quality by kind of test row."""

    tables: tuple[SharedTable, ...]
    refused: tuple[UnprunableTable, ...]
    soundness: Soundness
    remap_bytes: int
    with_rare: SubsetQuality
    without_rare: SubsetQuality


class RareIdSelector:
    """Chooses the rows of a request that show an id which shares a row.

    Lookups whose ids are not parted by the rows of the request, bags with offsets, cannot be told and do not count.
    """

    def __init__(self, program: Program, rows: Sequence[RowPlan]) -> None:
        tables, _ = find_prunable_tables(program)
        self._read = IdReader(program, [tables[part.table] for part in rows])
        self._shares = {part.table: torch.from_numpy(part.shared_mask()) for part in rows}

    def __call__(self, request: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return bool [N]."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in request.items()}
        shown = np.zeros(len(next(iter(request.values()))), dtype=bool)
        for name, ids in self._read.ids_by_request(tensors):
            shown |= self._shares[name][ids].any(1).numpy()
        return shown


def compare_shared_rows(
    program: Program,
    rows: Sequence[RowPlan],
    soundness: Soundness,
    file: OnnxFile,
    task: Task,
    answers: Mapping[str, Predictor],
) -> SharedRowReport:
    """Compare the `dense` and the `pruned` of `answers` on both kinds of test rows; `file` is what is served."""
    tables, refused = find_prunable_tables(program)
    shared = tuple(SharedTable(p.table, tables[p.table].inputs, p.rows, p.retained_count + 1) for p in rows)
    rare = RareIdSelector(program, rows)
    return SharedRowReport(
        shared,
        refused,
        soundness,
        remap_bytes(file.path),
        _quality(task, answers, rare, wanted=True),
        _quality(task, answers, rare, wanted=False),
    )


def _quality(task: Task, answers: Mapping[str, Predictor], rare: RareIdSelector, *, wanted: bool) -> SubsetQuality:
    count = 0

    def where(request: RequestArrays) -> np.ndarray:
        nonlocal count
        chosen: np.ndarray = rare(request) == wanted
        count = int(chosen.sum())
        return chosen

    metrics = {name: task.test(answer, where) for name, answer in answers.items()}
    if any(metrics.values()) or count:
        return SubsetQuality(count, metrics)
    request = task.requests(DISTANCE_ROWS, seed=0)
    chosen = where(request)
    return SubsetQuality(count, {"pruned": _distance(answers, request, chosen)} if count else {})


def _distance(answers: Mapping[str, Predictor], request: RequestArrays, chosen: np.ndarray) -> dict[str, float]:
    part = {name: values[chosen] for name, values in request.items()}
    dense, pruned = answers["dense"](part), answers["pruned"](part)
    return {f"{name}/distance": float(np.abs(dense[name] - pruned[name]).mean()) for name in dense}
