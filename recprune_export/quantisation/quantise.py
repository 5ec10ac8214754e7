"""`quantise`: an ONNX file in fewer bits, decided by measurement, held to the metric, written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.passes.early_rounding import round_early
from recprune_export.onnx.passes.lighter_scales import lighten_scales
from recprune_export.onnx.passes.overlapped_lookups import overlap_lookups
from recprune_export.onnx.passes.plain_lookups import plain_lookups
from recprune_export.onnx.rewriting import Pass, rewrite
from recprune_export.onnx.saving import save_onnx
from recprune_export.onnx.session import SessionOptions, make_session, run
from recprune_export.onnx.skeleton import fill_shapes
from recprune_export.progress import bar
from recprune_export.quantisation import tables
from recprune_export.quantisation.apply import quantised
from recprune_export.quantisation.candidates import candidates_of
from recprune_export.quantisation.decide import decide, plain
from recprune_export.quantisation.observe import Answers, Arrays, answers_of, observe
from recprune_export.quantisation.plan import HALF, MORE_BITS, PLAIN, Choice, Mode, QuantisationPlan
from recprune_export.quantisation.quality import Judge, Loss, largest_errors, relative_error
from recprune_export.quantisation.settle import settle
from recprune_export.quantisation.timing import Stopwatch, take_times
from recprune_export.validation.requests import Request
from recprune_export.validation.rotation import Rotations

PROBES = 2  # calibration requests, on which moving lookups must change nothing
# Forms that are faster with fewer bits, each proved and priced like a rewrite of the export.
REWRITES: tuple[Pass, ...] = (lighten_scales, round_early, overlap_lookups)
SLACK = (
    4.0  # times the difference between ONNX Runtime's fused kernels and its plain ones that a golden output may have
)


@dataclass(frozen=True)
class Quantised:
    """A file that was written, and what it lost. `path` is the original where nothing was quantised.

    `data` is the file of its weights where they lie apart, `bytes` the size before and after. `errors`: by output, the
    largest difference from the original on drawn and calibration requests, `error` the root mean square one of the worst output
    as a fraction of how much it varies. `spread`: by how much answers differ where the same integers are multiplied and
    added by other kernels, so that golden outputs are held to `tolerance`.
    """

    path: Path
    data: Path | None
    plan: QuantisationPlan
    loss: Loss
    taken_back: tuple[str, ...]
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
            "taken_back": list(self.taken_back),
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
            "error": self.error,
            "errors": dict(self.errors),
            "spread": self.spread,
        }


def quantise(
    source: Path,
    target: Path,
    mode: Mode,
    calibration: Sequence[Request],
    requests: Rotations,
    judge: Judge,
    *,
    stopwatch: Stopwatch = take_times,
    rewrites: Sequence[Pass] = REWRITES,
) -> Quantised:
    """Quantise the model in `source` and write it to `target`.

    Static layers are calibrated on `calibration`, forms are timed on `requests`, by batch size. The plan is the same for
    the same times; where it loses more than `judge` allows, weights get more bits again, those that do most harm first.

    Raises `ExportError` where the result cannot be written.
    """
    model = ir.load(source)
    plain_lookups(model)  # candidates are found in the form that every pass knows
    RemoveUnusedNodesPass()(model)
    fill_shapes(model)
    with bar("Quantising", len(list(candidates_of(model).layers)) + len(candidates_of(model).tables)) as advance:
        plan = decide(model, mode, requests, stopwatch, advance)
    trial = _Trial(model, _seen(model, plan, calibration), calibration, judge)
    settled = settle(plan, trial, lambda choice: more_bits(model, choice))
    before = _size(source)
    if settled.plan.is_empty:
        return Quantised(source, None, settled.plan, settled.loss, settled.taken_back, (before, before), 0.0, {}, 0.0)
    target.parent.mkdir(parents=True, exist_ok=True)
    result = _as_served(trial.graph(settled.plan), rewrites, calibration, tuple(requests))
    data = save_onnx(result, target)
    answers = answers_of(result)
    return Quantised(
        target,
        data,
        settled.plan,
        settled.loss,
        settled.taken_back,
        (before, _size(target)),
        relative_error(calibration, trial.before, answers),
        largest_errors(calibration, trial.before, answers),
        max(largest_errors(calibration, answers, _unfused(target)).values(), default=0.0),
    )


def _as_served(
    model: ir.Model, rewrites: Sequence[Pass], calibration: Sequence[Request], batches: Sequence[int]
) -> ir.Model:
    """Return the graph with those of the rewrites that prove themselves."""
    fill_shapes(model)
    probes = [[request[value.name or ""] for value in model.graph.inputs] for request in calibration[:PROBES]]
    return rewrite(model, rewrites, probes, batches)[0]


class _Trial:
    """Graphs by plans, and what they lose against the original."""

    def __init__(self, model: ir.Model, seen: Arrays, calibration: Sequence[Request], judge: Judge) -> None:
        self.before: Answers = answers_of(model)
        self._model, self._seen, self._calibration, self._judge = model, seen, calibration, judge

    def graph(self, plan: QuantisationPlan) -> ir.Model:
        """Carry out a plan."""
        return quantised(self._model, plan.forms(), self._seen)

    def loss(self, plan: QuantisationPlan) -> Loss:
        """Return what the judge says."""
        return self._judge(self.before, answers_of(self.graph(plan)))

    def error(self, plan: QuantisationPlan) -> float:
        """Return how far answers to calibration requests are off."""
        return relative_error(self._calibration, self.before, answers_of(self.graph(plan)))


def _seen(model: ir.Model, plan: QuantisationPlan, calibration: Sequence[Request]) -> Arrays:
    found, forms = candidates_of(model), plan.forms()
    multiplied = [layer for name, layer in found.layers.items() if name in forms]
    multiplied += [layer for name, table in found.tables.items() if name in forms for layer in table.products]
    return observe(model, [layer.operand.name or "" for layer in multiplied], calibration)


def more_bits(model: ir.Model, choice: Choice) -> Choice:
    """Return the next choice for a weight that does too much harm; it is not timed, for quality asks for it."""
    form, found = MORE_BITS[choice.form], candidates_of(model)
    table = found.tables.get(choice.name)
    if form == HALF and table is not None and not tables.fits_half(table):
        form = PLAIN
    reason = f"{choice.form} lost too much"
    if form == PLAIN or table is None:
        return plain(choice, reason)
    return replace(choice, form=form, reason=reason, speedups={}, bytes=tables.bytes_of(table, form))


def _unfused(path: Path) -> Answers:
    """Answers of the same integers by the plain kernels: what is fused on one machine may not be on another."""
    session = make_session(path, 1, SessionOptions(optimization="none"))

    def answer(request: Arrays) -> Arrays:
        return run(session, request)

    return answer


def _size(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)
