"""Quality loss of shared rows: on the test rows with an id that shares a row, and on all others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recprune_export.codec import ToDictMixin
from recprune_export.finetuning.task import AnswerFunction, Task
from recprune_export.onnx.counts import remap_bytes
from recprune_export.onnx.export import OnnxFile
from recprune_export.program.program import Program
from recprune_export.pruning.apply.soundness import Soundness
from recprune_export.pruning.rare_ids.find_tables import IdReader, UnprunableTable, find_prunable_tables
from recprune_export.pruning.rare_ids.row_plan import RowPlan
from recprune_export.validation.edge_requests import RequestArrays


@dataclass(frozen=True)
class SharedTable:
    """Rows of one table before and after, the shared one included; `inputs` are the sources of its ids."""

    table: str
    inputs: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class SubsetQuality:
    """Metrics of `dense` and `pruned` on `rows` test rows; without labels the mean distance of their outputs."""

    rows: int
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SharedRowReport(ToDictMixin):
    """Effects of `--prune-rows`: tables, proof, bytes of the remaps in the file, quality by kind of test row."""

    tables: tuple[SharedTable, ...]
    refused: tuple[UnprunableTable, ...]
    soundness: Soundness
    remap_bytes: int
    with_rare: SubsetQuality
    without_rare: SubsetQuality


class RareIdSelector:
    """Selects the rows of a request that have an id with a shared row.

    Lookups whose ids are not split by rows of the request, such as bags with offsets, are ignored.
    """

    def __init__(self, program: Program, rows: Sequence[RowPlan]) -> None:
        tables, _ = find_prunable_tables(program)
        self._read = IdReader(program, [tables[row_plan.table] for row_plan in rows])
        self._shares = {row_plan.table: torch.from_numpy(row_plan.shared_mask()) for row_plan in rows}

    def __call__(self, request: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return a mask of the rows, bool [N]."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in request.items()}
        selected = np.zeros(len(next(iter(request.values()))), dtype=bool)
        for name, ids in self._read.ids_by_request(tensors):
            selected |= self._shares[name][ids].any(1).numpy()
        return selected


def compare_shared_rows(
    program: Program,
    rows: Sequence[RowPlan],
    soundness: Soundness,
    file: OnnxFile,
    task: Task,
    answers: Mapping[str, AnswerFunction],
) -> SharedRowReport:
    """Compare the predictors `dense` and `pruned` of `answers` on both kinds of test rows; `file` is the exported file."""
    tables, refused = find_prunable_tables(program)
    shared = tuple(SharedTable(p.table, tables[p.table].inputs, p.rows, p.retained_count + 1) for p in rows)
    rare = RareIdSelector(program, rows)
    return SharedRowReport(
        shared,
        refused,
        soundness,
        remap_bytes(file.path),
        _measure_quality(task, answers, rare, with_rare=True),
        _measure_quality(task, answers, rare, with_rare=False),
    )


def _measure_quality(
    task: Task, answers: Mapping[str, AnswerFunction], rare: RareIdSelector, *, with_rare: bool
) -> SubsetQuality:
    count = 0

    def where(request: RequestArrays) -> np.ndarray:
        nonlocal count
        chosen: np.ndarray = rare(request) == with_rare
        count += int(chosen.sum())
        return chosen

    metrics = {}
    for name, answer in answers.items():
        count = 0  # the batches of one model
        metrics[name] = task.test(answer, where)
    if any(metrics.values()) or count:
        return SubsetQuality(count, metrics)
    request = task.requests(4096, seed=0)  # there are no labels
    chosen = where(request)
    return SubsetQuality(count, {"pruned": _distance(answers, request, chosen)} if count else {})


def _distance(answers: Mapping[str, AnswerFunction], request: RequestArrays, chosen: np.ndarray) -> dict[str, float]:
    subset = {name: values[chosen] for name, values in request.items()}
    dense, pruned = answers["dense"](subset), answers["pruned"](subset)
    return {f"{name}/distance": float(np.abs(dense[name] - pruned[name]).mean()) for name in dense}
