"""`quantize`: an ONNX file in fewer bits, decided by measurement, held to the metric, written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.optimizer.passes.commute_dequantize_scale import commute_dequantize_scale
from recprune_export.onnx.optimizer.passes.gather_to_gathernd import gather_to_gathernd
from recprune_export.onnx.optimizer.passes.gathernd_to_gather import gathernd_to_gather
from recprune_export.onnx.optimizer.passes.hoist_quantize import hoist_quantize
from recprune_export.onnx.optimizer.rewrite import Pass, rewrite
from recprune_export.onnx.runtime.session import SessionOptions, make_session, run
from recprune_export.onnx.saving import save_onnx
from recprune_export.progress import progress_bar
from recprune_export.quantization.apply_quantization import quantize_weights
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.choose_formats import choose_formats, keep_float32
from recprune_export.quantization.formats import quantized_tables
from recprune_export.quantization.observers import Arrays, GraphFunction, make_graph_function, observe
from recprune_export.quantization.quality_loss import Judge, QualityLoss, largest_errors, relative_error
from recprune_export.quantization.quantization_plan import FP16, FP32, WIDER_FORM, Mode, QuantizationPlan, WeightChoice
from recprune_export.quantization.relax_until_quality import relax_until_quality
from recprune_export.quantization.timing import Stopwatch, measure_times
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.request_cycle import RequestCycles

PROBES = 2  # calibration requests, on which moving lookups must change nothing
# Forms that are faster with fewer bits, each proved and priced like a rewrite of the export.
REWRITES: tuple[Pass, ...] = (commute_dequantize_scale, hoist_quantize, gather_to_gathernd)
SLACK = (
    4.0  # times the difference between ONNX Runtime's fused kernels and its plain ones that a golden output may have
)


@dataclass(frozen=True)
class QuantizedFile:
    """A file that was written, and what it lost. `path` is the original where nothing was quantised.

    `data` is the file of its weights where they lie apart, `bytes` the size before and after. `errors`: by output, the
    largest difference from the original on drawn and calibration requests, `error` the root mean square one of the worst output
    as a fraction of how much it varies. `spread`: by how much answers differ where the same integers are multiplied and
    added by other kernels, so that golden outputs are held to `tolerance`.
    """

    path: Path
    data: Path | None
    plan: QuantizationPlan
    loss: QualityLoss
    relaxations: tuple[str, ...]
    bytes: tuple[int, int]
    error: float
    errors: Mapping[str, float]
    spread: float

    @property
    def tolerance(self) -> float:
        """What an answer may differ by on another machine, beside the tolerance of floats."""
        return SLACK * self.spread

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **self.plan.to_dict(),
            "loss": self.loss.to_dict(),
            "taken_back": list(self.relaxations),
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
            "error": self.error,
            "errors": dict(self.errors),
            "spread": self.spread,
        }


def quantize(
    source: Path,
    target: Path,
    mode: Mode,
    calibration: Sequence[RequestArrays],
    requests: RequestCycles,
    judge: Judge,
    *,
    stopwatch: Stopwatch = measure_times,
    rewrites: Sequence[Pass] = REWRITES,
) -> QuantizedFile:
    """Quantise the model in `source` and write it to `target`.

    Static layers are calibrated on `read_calibration_batches`, forms are timed on `requests`, by batch size. The plan is the same for
    the same times; where it loses more than `judge` allows, weights get more bits again, those that do most harm first.

    Raises `ExportError` where the result cannot be written.
    """
    model = ir.load(source)
    gathernd_to_gather(model)  # candidates are found in the form that every pass knows
    RemoveUnusedNodesPass()(model)
    fill_shapes(model)
    with progress_bar(
        "Quantising", len(list(find_candidates(model).layers)) + len(find_candidates(model).tables)
    ) as advance:
        plan = choose_formats(model, mode, requests, stopwatch, advance)
    trial = _PlanEvaluator(model, _record_calibration(model, plan, calibration), calibration, judge)
    settled = relax_until_quality(plan, trial, lambda choice: increase_bits(model, choice))
    before = _size(source)
    if settled.plan.is_empty:
        return QuantizedFile(
            source, None, settled.plan, settled.loss, settled.relaxations, (before, before), 0.0, {}, 0.0
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    result = _as_served(trial.graph(settled.plan), rewrites, calibration, tuple(requests))
    data = save_onnx(result, target)
    answers = make_graph_function(result)
    return QuantizedFile(
        target,
        data,
        settled.plan,
        settled.loss,
        settled.relaxations,
        (before, _size(target)),
        relative_error(calibration, trial.before, answers),
        largest_errors(calibration, trial.before, answers),
        max(largest_errors(calibration, answers, _unfused(target)).values(), default=0.0),
    )


def _as_served(
    model: ir.Model, rewrites: Sequence[Pass], calibration: Sequence[RequestArrays], batches: Sequence[int]
) -> ir.Model:
    """Return the graph with those of the rewrites that prove themselves."""
    fill_shapes(model)
    probes = [[request[value.name or ""] for value in model.graph.inputs] for request in calibration[:PROBES]]
    return rewrite(model, rewrites, probes, batches)[0]


class _PlanEvaluator:
    """Graphs by plans, and what they lose against the original."""

    def __init__(self, model: ir.Model, seen: Arrays, calibration: Sequence[RequestArrays], judge: Judge) -> None:
        self.before: GraphFunction = make_graph_function(model)
        self._model, self._seen, self._calibration, self._judge = model, seen, calibration, judge

    def graph(self, plan: QuantizationPlan) -> ir.Model:
        """Carry out a plan."""
        return quantize_weights(self._model, plan.forms(), self._seen)

    def loss(self, plan: QuantizationPlan) -> QualityLoss:
        """Return what the judge says."""
        return self._judge(self.before, make_graph_function(self.graph(plan)))

    def error(self, plan: QuantizationPlan) -> float:
        """Return how far answers to calibration requests are off."""
        return relative_error(self._calibration, self.before, make_graph_function(self.graph(plan)))


def _record_calibration(model: ir.Model, plan: QuantizationPlan, calibration: Sequence[RequestArrays]) -> Arrays:
    found, forms = find_candidates(model), plan.forms()
    multiplied = [layer for name, layer in found.layers.items() if name in forms]
    multiplied += [layer for name, table in found.tables.items() if name in forms for layer in table.products]
    return observe(model, [layer.operand.name or "" for layer in multiplied], calibration)


def increase_bits(model: ir.Model, choice: WeightChoice) -> WeightChoice:
    """Return the next choice for a weight that does too much harm; it is not timed, for quality asks for it."""
    form, found = WIDER_FORM[choice.form], find_candidates(model)
    table = found.tables.get(choice.name)
    if form == FP16 and table is not None and not quantized_tables.fits_fp16(table):
        form = FP32
    reason = f"{choice.form} lost too much"
    if form == FP32 or table is None:
        return keep_float32(choice, reason)
    return replace(choice, form=form, reason=reason, speedups={}, bytes=quantized_tables.count_table_bytes(table, form))


def _unfused(path: Path) -> GraphFunction:
    """Answers of the same integers by the plain kernels: what is fused on one machine may not be on another."""
    session = make_session(path, 1, SessionOptions(optimization="none"))

    def answer(request: Arrays) -> Arrays:
        return run(session, request)

    return answer


def _size(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)
