"""`plan_within_bytes`: choose widths and bits together, with the least predicted loss for a file within a byte limit."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from recprune_export.byte_limit import ByteLimit
from recprune_export.errors import TooFewBytes, TooLittleTime
from recprune_export.number_formats import format_bytes
from recprune_export.onnx.export import DEFAULT_SERVING, ServingConfig, export_onnx
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.rate_distortion import Allocation
from recprune_export.pruning.allocation.storage_candidates import Candidate
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.plan import Plan, PlannedProgram
from recprune_export.pruning.rotation._apply_transforms import apply_transforms
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.quantization._quantize import quantize
from recprune_export.quantization.quality_loss import QualityLoss
from recprune_export.quantization.quantization_plan import FP32
from recprune_export.stored_bits import StoredBits
from recprune_export.validation.edge_requests import squeeze_shared_inputs
from recprune_export.validation.latency.request_cycle import RequestCycles

Request = Mapping[str, Tensor]
CURVE = (0.5, 0.7, 0.85, 1.2, 1.5, 2.0)  # the limits of the points next to the chosen one, as multiples of it
ATTEMPTS = 4  # exports that measure the bytes in addition to the weights
MIN_USED = 0.98  # of the limit, below which another attempt is made
FIRST_OVERHEAD = 8_000  # bytes of a file next to its weights, before the first export
CALIBRATION_ROWS = 16  # the name of the file whose bytes are counted
MARGIN = 0.002  # of the limit: names and small constants of the tuned file may differ from those of the measured one


def resolve_byte_limit(dense: Program, limit: ByteLimit) -> int:
    """Return a limit in bytes; for a fraction the dense program is written as an ONNX file, in fp32."""
    if limit.bytes is not None:
        return limit.bytes
    with tempfile.TemporaryDirectory() as scratch:
        return limit.resolve(export_onnx(dense, Path(scratch) / "dense.onnx", rewrites=()).bytes)


def plan_within_bytes(
    candidates: Sequence[Candidate],
    request: Request,
    max_bytes: int,
    serving: ServingConfig = DEFAULT_SERVING,
    max_microseconds: float | None = None,
) -> PlannedProgram:
    """Choose the widths and bits of least predicted loss within `max_bytes`, for the candidate that loses least.

    The file of a plan is written as for `serving`, untuned, with rows of `request` to quantize it, so that its bytes are counted and not
    estimated; if they exceed the limit, or are far below it, the plan is made again. The predicted time of a plan for lookups and matrix
    products is at most `max_microseconds`.

    Raises `TooFewBytes` if no plan has so few bytes, `TooLittleTime` if none of them is as fast.
    """
    slowest = inf if max_microseconds is None else max_microseconds
    limit = int(max_bytes * (1.0 - MARGIN))
    start = max(limit - FIRST_OVERHEAD, limit // 2)
    best: _Counted | None = None
    smallest: int | None = None
    for _, number in sorted((_loss_of(c.choices.allocate(start, slowest)), n) for n, c in enumerate(candidates)):
        candidate = candidates[number]
        if best is not None and _loss_of(candidate.choices.allocate(limit, slowest)) >= best.allocation.loss:
            continue  # not even with only the bytes of the weights
        for counted in _count_plans(candidate, limit, start, slowest, request, serving):
            smallest = counted.bytes if smallest is None else min(smallest, counted.bytes)
            if counted.bytes <= limit and (best is None or counted.allocation.loss < best.allocation.loss):
                best = counted
    if best is None:
        fewest = min(candidate.choices.count_fewest_bytes() for candidate in candidates)
        if max_microseconds is not None and fewest <= limit and smallest is None:
            raise TooLittleTime(
                f"No plan within --max-bytes {format_bytes(max_bytes)} is predicted to take at most {max_microseconds:.3g} µs for the "
                "lookups and matrix products of a request. Allow more time, or more bytes."
            )
        raise TooFewBytes(_describe_too_few_bytes(max_bytes, smallest, fewest))
    return PlannedProgram(_with_storage(best, max_bytes, slowest), best.candidate.projected.program)


def _loss_of(allocation: Allocation | None) -> float:
    return inf if allocation is None else allocation.loss


def _count_plans(
    candidate: Candidate, limit: int, start: int, slowest: float, request: Request, serving: ServingConfig
) -> Iterator["_Counted"]:
    """Yield plans of a candidate with their counted bytes, until one has nearly `limit` bytes; at most `ATTEMPTS` plans.

    The bytes in addition to the weights depend on the plan, so the bytes of weights are bracketed between plans that fit and plans that
    do not.
    """
    fitting, exceeding, weights = 0, limit, start
    before: Allocation | None = None
    for _ in range(ATTEMPTS):
        allocation = candidate.choices.allocate(weights, slowest)
        if allocation is None:  # no plan has weights with so few bytes, or none of them is fast enough
            fitting, weights = weights, (weights + exceeding) // 2
            continue
        if allocation == before:
            return
        before = allocation
        counted = _Counted(candidate, allocation, count_file_bytes(candidate, allocation, request, serving))
        yield counted
        if MIN_USED * limit <= counted.bytes <= limit:
            return
        fitting, exceeding = (weights, exceeding) if counted.bytes <= limit else (fitting, weights)
        weights = allocation.bytes + limit - counted.bytes
        if not fitting < weights < exceeding:
            weights = (fitting + exceeding) // 2


@dataclass(frozen=True)
class _Counted:
    """An allocation whose file was written, with its bytes."""

    candidate: Candidate
    allocation: Allocation
    bytes: int


def count_file_bytes(candidate: Candidate, allocation: Allocation, request: Request, serving: ServingConfig) -> int:
    """Write the ONNX file of an allocation, without measuring its times, and return its bytes, weights included."""
    program, plan = candidate.projected.program, candidate.make_plan(allocation)
    student = apply_plan(apply_transforms(program, candidate.rotatable, plan.transforms), plan)
    rows = {name: tensor[:CALIBRATION_ROWS].numpy() for name, tensor in request.items()}
    with tempfile.TemporaryDirectory() as scratch:
        file = export_onnx(student, Path(scratch) / "fp32.onnx", serving=serving, bits=_get_bits(allocation))
        assert file.bits is not None
        target, rows = Path(scratch) / "model.onnx", squeeze_shared_inputs(rows, file.signature)
        return quantize(
            file.path, target, file.bits, [rows], {1: [rows]}, _judge_nothing,
            stopwatch=_time_nothing, runtime=serving.runtime,
        ).bytes[1]  # fmt: skip


def _time_nothing(
    subgraph: ir.Model, name: str | tuple[str, ...], forms: Sequence[str], requests: RequestCycles
) -> dict[str, dict[int, float]]:
    """Return times for which integer products, whose nodes take more bytes, are always chosen."""
    return {form: dict.fromkeys(requests, 2.0 if form == FP32 else 1.0) for form in (FP32, *forms)}


def _judge_nothing(before: Callable[..., object], after: Callable[..., object]) -> QualityLoss:
    return QualityLoss("", 0.0, 1.0)


def _get_bits(allocation: Allocation) -> StoredBits:
    return StoredBits(allocation.table_bits, allocation.layer_bits)


def _with_storage(chosen: _Counted, max_bytes: int, slowest: float) -> Plan:
    """Return the plan of the chosen allocation with its bits, and with the neighboring points of the curve within the same time limit."""
    candidate, allocation = chosen.candidate, chosen.allocation
    overhead = chosen.bytes - allocation.bytes
    points = []
    for factor in CURVE:
        other = candidate.choices.allocate(int(factor * chosen.bytes) - overhead, slowest)
        if other is not None:
            points.append(RatePoint(other.bytes + overhead, other.loss, other.microseconds))
    storage = StoragePlan(
        _get_bits(allocation),
        max_bytes,
        RatePoint(chosen.bytes, allocation.loss, allocation.microseconds),
        allocation.least_loss_estimate,
        tuple(points),
        candidate.choices.time.rows,
    )
    return replace(candidate.make_plan(allocation), storage=storage)


def _describe_too_few_bytes(max_bytes: int, smallest: int | None, fewest: int) -> str:
    if smallest is None:
        tried = f": its weights alone need at least {format_bytes(fewest)}"
    else:
        tried = f": the smallest file that was tried has {format_bytes(smallest)}"
    return f"--max-bytes {format_bytes(max_bytes)} is too small for this model{tried}. Allow more bytes."
