"""Decide: for each linear layer the fastest form, for each table the fastest of those that are small enough."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.optimizer.linear_layers import Linear
from recprune_export.quantization.candidates import Candidates, Table, find_candidates, find_fused_output
from recprune_export.quantization.formats import int8_layers, quantized_tables
from recprune_export.quantization.observers import Arrays, observe
from recprune_export.quantization.quantization_plan import (
    FP16,
    FP32,
    INT4_BY_ROW,
    INT4_BY_ROW_DYNAMIC,
    INT4_BY_ROW_STATIC,
    INT4_IN_BLOCKS,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_BY_ROW_DYNAMIC,
    INT8_BY_ROW_STATIC,
    INT8_DYNAMIC,
    INT8_STATIC,
    SCORED_TABLE_FORMS,
    Mode,
    QuantizationPlan,
    WeightChoice,
)
from recprune_export.quantization.timing import Stopwatch, Times, extract_subgraph
from recprune_export.validation.latency.request_cycle import RequestCycle, RequestCycles

MIN_SPEEDUP = 1.05  # times faster, over all batch sizes: what a layer has to be to change at all
MAX_SLOWDOWN_FRACTION = (
    0.02  # of the time of a request: what layers that are slower at one batch size may cost it, and gain at others
)
# Times faster than static a dynamic layer has to be: its step is that of the whole request, so that the answer for one row
# depends on the rows beside it.
MIN_DYNAMIC_ADVANTAGE = 1.1
MAX_DIMENSION_ERROR = (
    0.015  # of the numbers of a usual row: the most that a scale for each dimension may put a table off
)


def choose_formats(
    model: ir.Model, mode: Mode, requests: RequestCycles, stopwatch: Stopwatch, advance: Callable[[str], None]
) -> QuantizationPlan:
    """Measure the forms of each layer and table on `requests`, which are of the batch sizes asked for; choose by them.

    Tables are asked for the rows of all of them in turn. A layer gets what the first one gives it, since what it reads was
    computed just before, and what it holds is the same for all. The same times give the same plan.
    """
    fill_shapes(model)
    found = find_candidates(model)
    if mode == "none":
        return QuantizationPlan(mode, (), ())
    operands = [] if mode == "fp16" else [layer.operand for layer in found.layers.values()]
    given = {batch: _record_requests(model, operands, rotation[:1]) for batch, rotation in requests.items()}
    starts = [value for table in found.tables.values() for value in _ends(table)[0]]
    asked = {batch: _record_requests(model, starts, rotation) for batch, rotation in requests.items()}
    timed = []
    for name, layer in () if mode == "fp16" else found.layers.items():
        advance(name)
        timed.append(_layer(model, name, layer, given, stopwatch))
    multiplied = any(table.products for table in found.tables.values())
    whole = stopwatch(model, "", (), requests)[FP32] if timed or multiplied else {}
    for name, table in found.tables.items():
        advance(name)
        timed.append(_table(model, mode, table, asked, stopwatch))
    chosen = _limit_slowdown(timed, whole)
    of_layers = [choice for name, choice in chosen.items() if name in found.layers]
    of_tables = [choice for name, choice in chosen.items() if name in found.tables]
    left = () if mode == "fp16" else _list_excluded(found, is_table=False)
    return QuantizationPlan(mode, (*of_layers, *left), (*of_tables, *_list_excluded(found, is_table=True)))


@dataclass(frozen=True)
class _Timed:
    """A choice, what takes its place where it is slower, and by batch size the milliseconds that it takes more than that.

    A layer has fp32 in its place, a table whose integers are multiplied the form in which the product is one of floats. Of
    all others there is nothing else.
    """

    choice: WeightChoice
    fallback: WeightChoice | None = None
    extra_milliseconds: Mapping[int, float] = field(default_factory=dict)


def _layer(model: ir.Model, name: str, layer: Linear, inside: RequestCycles, stopwatch: Stopwatch) -> _Timed:
    part = extract_subgraph(model, [layer.operand], [find_fused_output(layer)])
    times = stopwatch(part, name, (INT8_STATIC, INT8_DYNAMIC), _select_values(inside, [layer.operand]))
    static, dynamic = (geometric_mean(compute_speedups(times, form)) for form in (INT8_STATIC, INT8_DYNAMIC))
    form, speedup = (INT8_DYNAMIC, dynamic) if dynamic > MIN_DYNAMIC_ADVANTAGE * static else (INT8_STATIC, static)
    reason = f"{speedup:.2f} times as fast as in fp32; static {static:.2f}, dynamic {dynamic:.2f}"
    measured, more = compute_speedups(times, form), {batch: times[form][batch] - times[FP32][batch] for batch in inside}
    choice = WeightChoice(
        name, (layer.inputs, layer.outputs), form, reason, measured, int8_layers.count_layer_bytes(layer)
    )
    if speedup < MIN_SPEEDUP:
        reason = f"not clearly faster in int8: static {static:.2f} times as fast, dynamic {dynamic:.2f}"
        return _Timed(keep_float32(choice, reason))
    return _Timed(choice, keep_float32(choice, "in fp32"), more)


def _limit_slowdown(timed: Sequence[_Timed], whole: Mapping[int, float]) -> dict[str, WeightChoice]:
    """Leave out products of integers until all together cost no batch size more than `MAX_SLOWDOWN_FRACTION` of the whole.

    Of those that are slower at that size the first to go gains least at all sizes together, each against the whole.
    """
    kept = {each.choice.name: each for each in timed}

    def gain(each: _Timed) -> tuple[float, str]:
        return -sum(each.extra_milliseconds[batch] / whole[batch] for batch in whole), each.choice.name

    for batch, milliseconds in whole.items():
        while (
            sum(each.extra_milliseconds.get(batch, 0.0) for each in kept.values())
            > MAX_SLOWDOWN_FRACTION * milliseconds
        ):
            least = min((each for each in kept.values() if each.extra_milliseconds.get(batch, 0.0) > 0), key=gain)
            assert least.fallback is not None
            slower = f"slower at batch {batch}: {least.choice.speedups[batch]:.2f} times as fast as in fp32"
            kept[least.choice.name] = _Timed(_in_place_of(least.choice, least.fallback, slower))
    return {name: each.choice for name, each in kept.items()}


def _in_place_of(choice: WeightChoice, instead: WeightChoice, slower: str) -> WeightChoice:
    return replace(instead, reason=f"{choice.form} {slower}; {instead.reason}" if instead.is_quantized else slower)


def _table(model: ir.Model, mode: Mode, table: Table, inside: RequestCycles, stopwatch: Stopwatch) -> _Timed:
    forms = _forms(mode, table)
    if not forms:
        reason = "it holds numbers that fp16 cannot"
        return _Timed(
            WeightChoice(table.name, table.shape, FP32, reason, {}, quantized_tables.count_table_bytes(table, FP32))
        )
    starts, ends = _ends(table)
    times = stopwatch(extract_subgraph(model, starts, ends), table.name, forms, _select_values(inside, starts))
    measured = {form: compute_speedups(times, form) for form in forms}

    def choice(form: str, reason: str) -> WeightChoice:
        return WeightChoice(
            table.name, table.shape, form, reason, measured[form], quantized_tables.count_table_bytes(table, form)
        )

    if not table.products:
        return _Timed(choice(*_best_table(table, measured)))
    floats, integers = forms[0], _best_integers(measured)
    if integers is None:
        return _Timed(choice(floats, _describe_speedups(floats, measured)))
    more = {batch: times[integers][batch] - times[floats][batch] for batch in inside}
    return _Timed(
        choice(integers, _describe_speedups(integers, measured)),
        choice(floats, _describe_speedups(floats, measured)),
        more,
    )


def _ends(table: Table) -> tuple[list[ir.Value], list[ir.Value]]:
    """Where the part that is timed begins and where it ends: one lookup, and one product where there are any."""
    lookup, products = table.lookups[0], table.products[:1]
    ids = lookup.inputs[1]
    assert ids is not None
    found = lookup.outputs[0]
    starts = [ids, *(product.operand for product in products if product.operand is not found)]
    return starts, [found, *map(find_fused_output, products)]


def _forms(mode: Mode, table: Table) -> list[str]:
    if mode == "fp16":
        return [FP16] if quantized_tables.fits_fp16(table) else []
    if table.products:
        few = (
            mode == "int8"
            or quantized_tables.count_table_bytes(table, INT4_BY_ROW)[1]
            >= quantized_tables.count_table_bytes(table, INT8_BY_ROW)[1]
        )
        return (
            [INT8_BY_ROW, INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC]
            if few
            else [INT4_BY_ROW, INT4_BY_ROW_STATIC, INT4_BY_ROW_DYNAMIC]
        )
    if (
        mode == "int8"
        or quantized_tables.count_table_bytes(table, INT4_BY_ROW)[1]
        >= quantized_tables.count_table_bytes(table, INT8_BY_DIMENSION)[1]
    ):
        return [INT8_BY_ROW, INT8_BY_DIMENSION]  # with few dimensions the scales of rows outweigh the bits
    return [INT4_BY_ROW, INT4_IN_BLOCKS] if quantized_tables.fits_blocks(table) else [INT4_BY_ROW]


def _best_integers(measured: Mapping[str, Mapping[int, float]]) -> str | None:
    """A form in which integers are multiplied, if that is clearly faster over all batch sizes than the first, of floats.

    Static and dynamic are weighed as in layers.
    """
    speeds = {form: geometric_mean(by_batch) for form, by_batch in measured.items()}
    floats, *others = speeds
    if not others:
        return None
    static, dynamic = (
        next(form for form in others if SCORED_TABLE_FORMS[form][1] == kind) for kind in (INT8_STATIC, INT8_DYNAMIC)
    )
    best = dynamic if speeds[dynamic] > MIN_DYNAMIC_ADVANTAGE * speeds[static] else static
    return best if speeds[best] >= MIN_SPEEDUP * speeds[floats] else None


def _describe_speedups(form: str, measured: Mapping[str, Mapping[int, float]]) -> str:
    speeds = {each: geometric_mean(by_batch) for each, by_batch in measured.items()}
    others = ", ".join(f"{each} {speed:.2f}" for each, speed in speeds.items())
    return f"lookup and product {speeds[form]:.2f} times as fast as in fp32" + (
        f" ({others})" if len(speeds) > 1 else ""
    )


def _best_table(table: Table, measured: Mapping[str, Mapping[int, float]]) -> tuple[str, str]:
    speeds = {form: geometric_mean(times) for form, times in measured.items()}
    best = max(speeds, key=lambda form: speeds[form])
    said = ", ".join(f"{form} {speed:.2f}" for form, speed in speeds.items())
    if best != INT8_BY_DIMENSION:
        return best, f"lookups {speeds[best]:.2f} times as fast as in fp32" + (f" ({said})" if len(speeds) > 1 else "")
    error = quantized_tables.error_by_dimension(table)
    if error > MAX_DIMENSION_ERROR:
        return INT8_BY_ROW, f"a scale for each dimension is off by {error:.1%} of the numbers; {said}"
    return best, f"lookups {speeds[best]:.2f} times as fast as in fp32, off by {error:.1%} of the numbers; {said}"


def _list_excluded(found: Candidates, is_table: bool) -> tuple[WeightChoice, ...]:
    sizes = {each: 4 * each.shape[0] * each.shape[1] for each in found.excluded if each.is_table is is_table}
    return tuple(
        WeightChoice(each.name, each.shape, FP32, each.reason, {}, (size, size)) for each, size in sizes.items()
    )


def keep_float32(choice: WeightChoice, reason: str) -> WeightChoice:
    """Return the choice to leave a weight as it is."""
    return WeightChoice(choice.name, choice.shape, FP32, reason, choice.speedups, (choice.bytes[0],) * 2, choice.error)


def _record_requests(model: ir.Model, values: Sequence[ir.Value], rotation: RequestCycle) -> list[Arrays]:
    """Return by name what the values held at each request; of one batch size they have the same shapes."""
    held = observe(model, [value.name or "" for value in values], rotation)
    parts = {name: np.split(arrays, len(rotation)) for name, arrays in held.items()}
    return [{name: of[number] for name, of in parts.items()} for number in range(len(rotation))]


def _select_values(inside: RequestCycles, values: Sequence[ir.Value]) -> dict[int, list[Arrays]]:
    names = [value.name or "" for value in values]
    return {batch: [{name: each[name] for name in names} for each in of] for batch, of in inside.items()}


def compute_speedups(times: Times, form: str) -> dict[int, float]:
    """Return how many times faster a form is than fp32, by batch size."""
    return {batch: milliseconds / times[form][batch] for batch, milliseconds in times[FP32].items()}


def geometric_mean(ratios: Mapping[int, float]) -> float:
    """Return the geometric mean over batch sizes.

    >>> round(geometric_mean({1: 0.5, 256: 8.0}), 6)
    2.0
    """
    return exp(sum(log(speedup) for speedup in ratios.values()) / len(ratios)) if ratios else 1.0
