"""`quantize`: choose the formats of an ONNX file by measurement, limit the loss of the metric, write the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.codec import FLATTENED, JsonForm, ToDictMixin, json_name
from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import shorten_names
from recprune_export.onnx.optimizer._rewrite import Pass, rewrite
from recprune_export.onnx.optimizer.passes.commute_dequantize_scale import commute_dequantize_scale
from recprune_export.onnx.optimizer.passes.gather_to_gathernd import gather_to_gathernd
from recprune_export.onnx.optimizer.passes.gathernd_to_gather import gathernd_to_gather
from recprune_export.onnx.optimizer.passes.hoist_quantize import hoist_quantize
from recprune_export.onnx.optimizer.passes.unpack_wide_products import pack_wide_products, unpack_wide_products
from recprune_export.onnx.runtime.session import SessionOptions, make_session, run
from recprune_export.onnx.saving import save_onnx
from recprune_export.progress import progress_bar
from recprune_export.quantization.apply_quantization import quantize_weights
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.choose_formats import choose_formats, keep_float32, select_candidates
from recprune_export.quantization.formats import int8_layers, quantized_tables, stored_rows
from recprune_export.quantization.layer_chains import extend_layer_chains
from recprune_export.quantization.observers import Arrays, GraphFunction, make_graph_function, observe
from recprune_export.quantization.quality_loss import Judge, QualityLoss, largest_errors, relative_error
from recprune_export.quantization.quantization_constants import SLACK
from recprune_export.quantization.quantization_plan import FP16, FP32, WIDER_FORM, Mode, QuantizationPlan, WeightChoice
from recprune_export.quantization.relax_until_quality import judge_plan, relax_until_quality
from recprune_export.quantization.share_scales import share_scales
from recprune_export.quantization.timing import Stopwatch, measure_times
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.stored_bits import StoredBits
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.request_cycle import RequestCycles

PROBES = 2  # calibration requests on which rewrites of the quantized graph must not change the outputs
# Rewrites that are faster with quantized weights, each proved and priced like a rewrite of the export.
REWRITES: tuple[Pass, ...] = (
    commute_dequantize_scale,
    hoist_quantize,
    unpack_wide_products,
    gather_to_gathernd,
)


@dataclass(frozen=True)
class QuantizedFile(ToDictMixin):
    """A written file and its loss. `path` is the original where nothing was quantized.

    `data` is the file of external weights, if any, `bytes` the size before and after. `errors`: by output, the largest
    difference from the original on calibration requests; `error`: the root mean square difference of the worst output,
    relative to its standard deviation. `spread`: the largest difference between answers of fused and unfused kernels on
    the same integers, from which the `tolerance` of golden outputs follows.
    """

    ENCODED = ("plan", "loss", "relaxations", "bytes", "error", "errors", "spread")

    path: Path
    data: Path | None
    plan: QuantizationPlan = field(metadata=FLATTENED)
    loss: QualityLoss
    relaxations: tuple[str, ...] = field(metadata=json_name("taken_back"))
    bytes: Annotated[tuple[int, int], JsonForm(lambda sizes: {"before": sizes[0], "after": sizes[1]})]
    error: float
    errors: Mapping[str, float]
    spread: float

    @property
    def tolerance(self) -> float:
        """The allowed difference of an answer on another machine, in addition to the tolerance of floats."""
        return SLACK * self.spread


def quantize(
    source: Path,
    target: Path,
    mode: Mode | StoredBits,
    calibration: Sequence[RequestArrays],
    requests: RequestCycles,
    judge: Judge,
    *,
    runtime: RuntimeTarget = ANY_RUNTIME,
    stopwatch: Stopwatch | None = None,
    chosen: QuantizationPlan | None = None,
    rewrites: Sequence[Pass] = REWRITES,
) -> QuantizedFile:
    """Quantize the model in `source` and write it to `target`.

    Static layers are calibrated on `calibration`, forms are timed on `requests`, by batch size. The same times give the
    same plan; if it loses more than `judge` allows, weights get more bits, those with the largest error first. Planned bits are not
    changed, and their loss is only measured. Only forms that `runtime` loads are used; `stopwatch` may return other times than measured
    ones. `chosen` are the forms of an earlier file with other weights: nothing is timed if this file has the same layers and tables.

    Raises `ExportError` if the result cannot be written.
    """
    model = ir.load(source)
    gathernd_to_gather(model)  # the passes that find candidates read Gather only
    pack_wide_products(model)  # and layers with weights of two axes
    RemoveUnusedNodesPass()(model)
    fill_shapes(model)
    candidates = select_candidates(model, mode)
    stopwatch = stopwatch or partial(measure_times, runtime=runtime)
    given = chosen is not None and chosen.forms().keys() <= {*candidates.layers, *candidates.tables}
    if chosen is not None and given:
        plan = chosen
    else:
        with progress_bar("Quantizing", len(candidates.layers) + len(candidates.tables)) as advance:
            plan = choose_formats(model, mode, requests, stopwatch, advance, runtime)
            plan = extend_layer_chains(model, plan, requests, stopwatch)
    evaluator = _PlanEvaluator(model, _record_calibration(model, plan, calibration), calibration, judge, runtime)
    if isinstance(mode, StoredBits):
        relaxed = judge_plan(plan, evaluator)
    else:
        plan = plan if given else share_scales(plan, evaluator)
        relaxed = relax_until_quality(plan, evaluator, lambda choice: increase_bits(model, choice))
    original_size = _count_file_bytes(source)
    if relaxed.plan.is_empty:
        return QuantizedFile(
            source, None, relaxed.plan, relaxed.loss, relaxed.relaxations, (original_size, original_size), 0.0, {}, 0.0
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    result = _rewrite_for_serving(evaluator.graph(relaxed.plan), rewrites, calibration, tuple(requests))
    answers = make_graph_function(result)
    _remove_redundant_text(result)
    data = save_onnx(result, target)
    return QuantizedFile(
        target,
        data,
        relaxed.plan,
        relaxed.loss,
        relaxed.relaxations,
        (original_size, _count_file_bytes(target)),
        relative_error(calibration, evaluator.before, answers),
        largest_errors(calibration, evaluator.before, answers),
        max(largest_errors(calibration, answers, _make_unfused_function(target)).values(), default=0.0),
    )


def _remove_redundant_text(model: ir.Model) -> None:
    """Remove names of nodes, and shapes and types that ONNX can infer, and shorten names of intermediate values.

    In a small file they are a fourth of the bytes. Weights, inputs and outputs keep their names.
    """
    for value in model.graph.initializers.values():
        value.shape, value.type = None, None
    shorten_names(model.graph, stored_rows.PREFIX)
    for node in model.graph:
        node.name = ""
        for value in node.outputs if not node.domain else ():
            if not value.is_graph_output():
                value.shape, value.type = None, None


def _rewrite_for_serving(
    model: ir.Model, rewrites: Sequence[Pass], calibration: Sequence[RequestArrays], batches: Sequence[int]
) -> ir.Model:
    """Return the graph with the accepted rewrites."""
    fill_shapes(model)
    probes = [[request[value.name or ""] for value in model.graph.inputs] for request in calibration[:PROBES]]
    return rewrite(model, rewrites, probes, batches)[0]


class _PlanEvaluator:
    """Makes the graph of a plan, and measures its loss against the original."""

    def __init__(
        self,
        model: ir.Model,
        calibration_values: Arrays,
        calibration: Sequence[RequestArrays],
        judge: Judge,
        runtime: RuntimeTarget,
    ) -> None:
        self.before: GraphFunction = make_graph_function(model)
        self._model, self._calibration, self._judge = model, calibration, judge
        self._calibration_values, self._runtime = calibration_values, runtime

    def graph(self, plan: QuantizationPlan) -> ir.Model:
        """Return the graph of a plan."""
        return quantize_weights(self._model, plan.forms(), self._calibration_values, self._runtime)

    def loss(self, plan: QuantizationPlan) -> QualityLoss:
        """Return the loss of a plan by the judge."""
        return self._judge(self.before, make_graph_function(self.graph(plan)))

    def error(self, plan: QuantizationPlan) -> float:
        """Return the relative error of the outputs to calibration requests."""
        return relative_error(self._calibration, self.before, make_graph_function(self.graph(plan)))


def _record_calibration(model: ir.Model, plan: QuantizationPlan, calibration: Sequence[RequestArrays]) -> Arrays:
    candidates, forms = find_candidates(model, min_fraction=0.0), plan.forms()
    multiplied = [layer for name, layer in candidates.layers.items() if name in forms]
    multiplied += [layer for name, table in candidates.tables.items() if name in forms for layer in table.products]
    return observe(model, [layer.operand.name or "" for layer in multiplied], calibration)


def increase_bits(model: ir.Model, choice: WeightChoice) -> WeightChoice:
    """Return the next choice, with more bits, for a weight whose error is too large; it is not timed."""
    form, candidates = WIDER_FORM[choice.form], find_candidates(model)
    table = candidates.tables.get(choice.name)
    if form == FP16 and table is not None and not quantized_tables.fits_fp16(table):
        form = FP32
    reason = f"{choice.form} lost too much"
    if form == FP32:
        return keep_float32(choice, reason)
    if table is None:
        size = int8_layers.count_layer_bytes(candidates.layers[choice.name])
        return replace(choice, form=form, reason=reason, bytes=size)
    return replace(choice, form=form, reason=reason, speedups={}, bytes=quantized_tables.count_table_bytes(table, form))


def _make_unfused_function(path: Path) -> GraphFunction:
    """Return a function that uses the unfused kernels, because a fusion of one machine may be missing on another."""
    session = make_session(path, 1, SessionOptions(optimization="none"))

    def answer(request: Arrays) -> Arrays:
        return run(session, request)

    return answer


def _count_file_bytes(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)
