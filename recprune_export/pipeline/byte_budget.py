"""`plan_within_bytes`: choose widths and bits together, so that the file has at most so many bytes and loses least."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from recprune_export.byte_limit import ByteLimit
from recprune_export.channels.groups import Group
from recprune_export.errors import TooFewBytes
from recprune_export.number_formats import format_bytes
from recprune_export.onnx.export import export_onnx
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.budget import Budget
from recprune_export.pruning.allocation.rate_distortion import Allocation, RateDistortion
from recprune_export.pruning.allocation.table_options import (
    choose_widths,
    find_controlled_tables,
    make_group_options,
)
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.rounding_loss import (
    predict_layer_losses,
    predict_table_losses,
    turn_matrix,
)
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import rank_channels
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.plan import GroupPlan, Plan, PlannedProgram
from recprune_export.pruning.pruning_constants import HIDDEN_LOSS_AFTER_TUNING
from recprune_export.pruning.rotation._apply_transforms import apply_transforms
from recprune_export.pruning.rotation.eligibility import RotatableGroup, find_rotatable_groups
from recprune_export.pruning.rotation.projections import ProjectedProgram, project_tables
from recprune_export.pruning.rotation.table_projections import (
    find_equal_groups,
    find_per_table_projections,
    insert_per_table_projections,
)
from recprune_export.pruning.rotation.transform import Transform
from recprune_export.pruning.statistics.weight_reads import gather_weight_reads
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.settings import PruningSettings
from recprune_export.stored_bits import StoredBits

READ_BATCHES = 4  # for the statistics of weights
CURVE = (0.5, 0.7, 0.85, 1.2, 1.5, 2.0)  # the limits of the points beside the chosen one, as multiples of it
ATTEMPTS = 4  # exports that measure the bytes beside the weights
MIN_USED = 0.98  # of the limit, below which another attempt is made
FIRST_OVERHEAD = 8_000  # bytes of a file beside its weights, before the first export
MARGIN = 0.002  # of the limit: names and small constants of the tuned file may differ from those of the measured one


def resolve_byte_limit(dense: Program, limit: ByteLimit) -> int:
    """Return a limit in bytes; for a fraction the dense program is written as an ONNX file, in fp32."""
    if limit.bytes is not None:
        return limit.bytes
    with tempfile.TemporaryDirectory() as scratch:
        return limit.resolve(export_onnx(dense, Path(scratch) / "dense.onnx", rewrites=()).bytes)


def plan_within_bytes(
    program: Program, pruning: PruningSettings, inputs: ScoreInputs, max_bytes: int
) -> PlannedProgram:
    """Choose for `program` the widths and bits of least predicted loss within `max_bytes`.

    With and without a projection for each table, whichever loses less. The file of a plan is written, untuned, so that its
    bytes are counted and not estimated; where they exceed the limit, or leave much of it, the plan is made again.

    Raises `TooFewBytes` where no plan has so few bytes.
    """
    candidates = make_candidates(program, pruning, inputs)
    limit = int(max_bytes * (1.0 - MARGIN))
    best: _Counted | None = None
    smallest: int | None = None
    for _ in range(ATTEMPTS):
        chosen = _choose(candidates, limit)
        if chosen is None:
            break
        candidate, allocation = chosen
        size = count_file_bytes(candidate, candidate.make_plan(allocation)) + allocation.bytes
        smallest = size if smallest is None else min(size, smallest)
        candidate.overhead = size - allocation.bytes
        if size <= limit and (best is None or allocation.loss < best.allocation.loss):
            best = _Counted(candidate, allocation, size)
        if MIN_USED * limit <= size <= limit:
            break
    if best is None:
        raise TooFewBytes(_describe_too_few_bytes(max_bytes, smallest))
    return PlannedProgram(_with_storage(best, max_bytes), best.candidate.projected.program)


@dataclass(frozen=True)
class _Counted:
    """An allocation whose file was written, with its bytes."""

    candidate: Candidate
    allocation: Allocation
    bytes: int


def _choose(candidates: Sequence[Candidate], limit: int) -> tuple[Candidate, Allocation] | None:
    """Return the candidate that loses least within the limit, and its allocation."""
    possible = [(c, c.choices.allocate(limit - c.overhead)) for c in candidates]
    allocations = [(c, a) for c, a in possible if a is not None]
    return min(allocations, key=lambda pair: pair[1].loss, default=None)


def count_file_bytes(candidate: Candidate, plan: Plan) -> int:
    """Return the bytes of the ONNX file of a plan, weights included."""
    program = candidate.projected.program
    student = apply_plan(apply_transforms(program, candidate.rotatable, plan.transforms), plan)
    with tempfile.TemporaryDirectory() as scratch:
        return export_onnx(student, Path(scratch) / "model.onnx").bytes - sum(
            p.nbytes for p in student.parameters().values()
        )


def _with_storage(chosen: _Counted, max_bytes: int) -> Plan:
    """Return the plan of the chosen allocation with its bits, and with the points of the curve around it."""
    candidate, allocation = chosen.candidate, chosen.allocation
    overhead = chosen.bytes - allocation.bytes
    points = []
    for factor in CURVE:
        other = candidate.choices.allocate(int(factor * chosen.bytes) - overhead)
        if other is not None:
            points.append(RatePoint(other.bytes + overhead, other.loss))
    storage = StoragePlan(
        StoredBits(allocation.table_bits, allocation.layer_bits),
        max_bytes,
        RatePoint(chosen.bytes, allocation.loss),
        allocation.bound,
        tuple(points),
    )
    return replace(candidate.make_plan(allocation), storage=storage)


def _describe_too_few_bytes(max_bytes: int, smallest: int | None) -> str:
    tried = "" if smallest is None else f": the smallest file that was tried has {format_bytes(smallest)}"
    return f"--max-bytes {format_bytes(max_bytes)} is too little for this model{tried}. Allow more."
