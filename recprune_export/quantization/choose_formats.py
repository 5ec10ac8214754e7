"""Choose formats: for each linear layer the fastest form, for each table the fastest that is small enough."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log

import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.optimizer.linear_layers import Linear
from recprune_export.quantization.candidates import Candidates, Table, find_candidates, find_fused_output
from recprune_export.quantization.formats import int8_layers, quantized_tables
from recprune_export.quantization.observers import Arrays, observe_each
from recprune_export.quantization.quantization_constants import (
    MAX_DIMENSION_ERROR,
    MAX_SLOWDOWN_FRACTION,
    MIN_DYNAMIC_ADVANTAGE,
    MIN_SPEEDUP,
)
from recprune_export.quantization.quantization_plan import (
    FP16,
    FP32,
    INT2_BY_ROW,
    INT3_BY_ROW,
    INT4_BY_ROW,
    INT4_BY_ROW_DYNAMIC,
    INT4_BY_ROW_STATIC,
    INT4_IN_BLOCKS,
    INT4_STORED,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_BY_ROW_DYNAMIC,
    INT8_BY_ROW_STATIC,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_STORED,
    PLANNED,
    SCORED_TABLE_FORMS,
    Mode,
    QuantizationPlan,
    WeightChoice,
)
from recprune_export.quantization.timing import Stopwatch, Times, extract_subgraph
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.stored_bits import StoredBits, count_weight_bytes, effective_bits
from recprune_export.validation.latency.request_cycle import RequestCycle, RequestCycles


def choose_formats(
    model: ir.Model,
    mode: Mode | StoredBits,
    requests: RequestCycles,
    stopwatch: Stopwatch,
    advance: Callable[[str], None],
    runtime: RuntimeTarget = ANY_RUNTIME,
) -> QuantizationPlan:
    """Measure the forms of each layer and table on `requests` of the given batch sizes, and choose by the times.

    `mode` determines the available forms, for all weights or for each by its name. With `StoredBits` a weight takes no more bytes than
    `count_weight_bytes` returns, including small tables, and a layer that is not faster in int8 arithmetic is stored in int8.

    A table is timed on all requests in turn. A layer is timed on only the first one: in a graph its operand was computed just before, and
    its weight is the same for all requests. The same times give the same plan.
    """
    fill_shapes(model)
    candidates = select_candidates(model, mode)
    if mode == "none":
        return QuantizationPlan(mode, (), ())
    operands = [] if mode == "fp16" else [layer.operand for layer in candidates.layers.values()]
    operand_values = {batch: _record_requests(model, operands, cycle[:1]) for batch, cycle in requests.items()}
    starts = [value for table in candidates.tables.values() for value in _find_subgraph_ends(table)[0]]
    table_values = {batch: _record_requests(model, starts, cycle) for batch, cycle in requests.items()}
    timed = []
    for name, layer in () if mode == "fp16" else candidates.layers.items():
        advance(name)
        timed.append(_time_layer(model, mode, name, layer, operand_values, stopwatch))
    multiplied = any(table.products for table in candidates.tables.values())
    request_times = stopwatch(model, "", (), requests)[FP32] if timed or multiplied else {}
    for name, table in candidates.tables.items():
        advance(name)
        timed.append(_time_table(model, mode, table, table_values, stopwatch, runtime))
    chosen = _limit_slowdown(timed, request_times)
    layers = [choice for name, choice in chosen.items() if name in candidates.layers]
    tables = [choice for name, choice in chosen.items() if name in candidates.tables]
    excluded_layers = () if mode == "fp16" else _list_excluded(candidates, is_table=False)
    return QuantizationPlan(
        PLANNED if isinstance(mode, StoredBits) else mode,
        (*layers, *excluded_layers),
        (*tables, *_list_excluded(candidates, is_table=True)),
    )


def select_candidates(model: ir.Model, mode: Mode | StoredBits) -> Candidates:
    """Return the weights that may be quantized in a mode; planned bits also apply to small tables."""
    return find_candidates(model, min_fraction=0.0) if isinstance(mode, StoredBits) else find_candidates(model)


@dataclass(frozen=True)
class _Timed:
    """A choice, its fallback for the case that it is slower, and by batch size the additional milliseconds over the fallback.

    A layer falls back to a product of floats, a table whose integers are multiplied to the form whose product is one of floats. Other
    choices have no fallback.
    """

    choice: WeightChoice
    fallback: WeightChoice | None = None
    extra_milliseconds: Mapping[int, float] = field(default_factory=dict)


def _time_layer(
    model: ir.Model,
    mode: Mode | StoredBits,
    name: str,
    layer: Linear,
    values_by_batch: RequestCycles,
    stopwatch: Stopwatch,
) -> _Timed:
    shape = (layer.inputs, layer.outputs)
    bits = effective_bits(shape, mode.get_layer(name), is_table=False) if isinstance(mode, StoredBits) else 8
    if bits != 8:
        float_bytes, fewer_bytes = int8_layers.count_layer_bytes(layer, 4)
        form, size = (INT4_STORED, fewer_bytes) if bits == 4 else (FP32, float_bytes)
        return _Timed(WeightChoice(name, shape, form, f"{bits} bits are planned", {}, (float_bytes, size)))
    if isinstance(mode, StoredBits) and layer.inputs == 1:  # an integer product has more scales
        sizes = int8_layers.count_layer_bytes(layer, 8)
        return _Timed(WeightChoice(name, shape, INT8_STORED, "it has one input", {}, sizes))
    subgraph = extract_subgraph(model, [layer.operand], [find_fused_output(layer)])
    times = stopwatch(subgraph, name, (INT8_STATIC, INT8_DYNAMIC), _select_values(values_by_batch, [layer.operand]))
    static, dynamic = (geometric_mean(compute_speedups(times, form)) for form in (INT8_STATIC, INT8_DYNAMIC))
    form, speedup = (INT8_DYNAMIC, dynamic) if dynamic > MIN_DYNAMIC_ADVANTAGE * static else (INT8_STATIC, static)
    reason = f"{speedup:.2f} times as fast as in fp32; static {static:.2f}, dynamic {dynamic:.2f}"
    measured, extra = (
        compute_speedups(times, form),
        {batch: times[form][batch] - times[FP32][batch] for batch in values_by_batch},
    )
    choice = WeightChoice(name, shape, form, reason, measured, int8_layers.count_layer_bytes(layer, 7))

    def multiply_floats(reason: str) -> WeightChoice:
        if isinstance(mode, StoredBits):
            return replace(choice, form=INT8_STORED, reason=reason, speedups={})
        return keep_float32(choice, reason)

    if speedup < MIN_SPEEDUP:
        reason = f"not clearly faster in int8: static {static:.2f} times as fast, dynamic {dynamic:.2f}"
        return _Timed(multiply_floats(reason))
    return _Timed(choice, multiply_floats("in fp32"), extra)


def _limit_slowdown(timed: Sequence[_Timed], request_times: Mapping[int, float]) -> dict[str, WeightChoice]:
    """Replace integer products by their fallbacks until no batch size loses more than `MAX_SLOWDOWN_FRACTION` of its time.

    Among those that are slower at that size, the one with the smallest gain over all sizes, relative to the request, is replaced first.
    """
    remaining = {candidate.choice.name: candidate for candidate in timed}

    def gain(candidate: _Timed) -> tuple[float, str]:
        return -sum(
            candidate.extra_milliseconds[batch] / request_times[batch] for batch in request_times
        ), candidate.choice.name

    for batch, milliseconds in request_times.items():
        while (
            sum(candidate.extra_milliseconds.get(batch, 0.0) for candidate in remaining.values())
            > MAX_SLOWDOWN_FRACTION * milliseconds
        ):
            slowest = min(
                (candidate for candidate in remaining.values() if candidate.extra_milliseconds.get(batch, 0.0) > 0),
                key=gain,
            )
            assert slowest.fallback is not None
            reason = f"slower at batch {batch}: {slowest.choice.speedups[batch]:.2f} times as fast as in fp32"
            remaining[slowest.choice.name] = _Timed(_fall_back(slowest.choice, slowest.fallback, reason))
    return {name: candidate.choice for name, candidate in remaining.items()}


def _fall_back(choice: WeightChoice, fallback: WeightChoice, reason: str) -> WeightChoice:
    return replace(fallback, reason=f"{choice.form} {reason}; {fallback.reason}" if fallback.is_quantized else reason)


def _time_table(
    model: ir.Model,
    mode: Mode | StoredBits,
    table: Table,
    values_by_batch: RequestCycles,
    stopwatch: Stopwatch,
    runtime: RuntimeTarget,
) -> _Timed:
    forms = [form for form in _list_forms(mode, table) if _is_allowed(form, runtime)]
    if not forms:
        reason = "32 bits are planned" if isinstance(mode, StoredBits) else _explain_no_form(mode, table)
        return _Timed(
            WeightChoice(table.name, table.shape, FP32, reason, {}, quantized_tables.count_table_bytes(table, FP32))
        )
    starts, ends = _find_subgraph_ends(table)
    times = stopwatch(extract_subgraph(model, starts, ends), table.name, forms, _select_values(values_by_batch, starts))
    speedups = {form: compute_speedups(times, form) for form in forms}

    def choice(form: str, reason: str) -> WeightChoice:
        return WeightChoice(
            table.name, table.shape, form, reason, speedups[form], quantized_tables.count_table_bytes(table, form)
        )

    if not table.products:
        return _Timed(choice(*_choose_table_form(table, speedups)))
    floats, integers = forms[0], _choose_integer_form(speedups)
    if integers is None:
        return _Timed(choice(floats, _describe_speedups(floats, speedups)))
    extra = {batch: times[integers][batch] - times[floats][batch] for batch in values_by_batch}
    return _Timed(
        choice(integers, _describe_speedups(integers, speedups)),
        choice(floats, _describe_speedups(floats, speedups)),
        extra,
    )


def _is_allowed(form: str, runtime: RuntimeTarget) -> bool:
    return form != INT4_IN_BLOCKS or runtime.allows("GatherBlockQuantized")


def _find_subgraph_ends(table: Table) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return start and end values of the timed subgraph: one lookup, and one product, if there are any."""
    lookup, products = table.lookups[0], table.products[:1]
    ids = lookup.inputs[1]
    assert ids is not None
    rows = lookup.outputs[0]
    starts = [ids, *(product.operand for product in products if product.operand is not rows)]
    return starts, [rows, *map(find_fused_output, products)]


def _explain_no_form(mode: Mode, table: Table) -> str:
    too_large = mode == "fp16" and not quantized_tables.fits_fp16(table)
    return "it holds numbers that fp16 cannot" if too_large else "no form is smaller"


def _list_forms(mode: Mode | StoredBits, table: Table) -> list[str]:
    """Return the forms of a table to choose from, all of them smaller than fp32; in products of floats the first one."""
    if isinstance(mode, StoredBits):
        bits = effective_bits(table.shape, mode.get_table(table.name), is_table=True)
        bits = 8 if bits == 16 and not quantized_tables.fits_fp16(table) else bits
        limit = count_weight_bytes(table.shape, bits, is_table=True)
        return [form for form in _list_forms_of_bits(bits, table) if _count_bytes(table, form) <= limit]
    if mode == "fp16":
        forms = [FP16] if quantized_tables.fits_fp16(table) else []
    elif mode == "int4":
        int8 = INT8_BY_ROW if table.products else INT8_BY_DIMENSION
        # With few dimensions the scales of rows take more than the saved bits.
        is_smaller = _count_bytes(table, INT4_BY_ROW) < _count_bytes(table, int8)
        forms = _list_forms_of_bits(4 if is_smaller else 8, table)
    else:
        forms = _list_forms_of_bits(8, table)
    return [form for form in forms if _count_bytes(table, form) < _count_bytes(table, FP32)]


def _list_forms_of_bits(bits: int, table: Table) -> list[str]:
    if bits == 4 and not table.products:
        return [INT4_BY_ROW, INT4_IN_BLOCKS] if quantized_tables.fits_blocks(table) else [INT4_BY_ROW]
    return _FORMS_OF_PRODUCTS[bits] if table.products else _FORMS_OF_LOOKUPS[bits]


_FORMS_OF_LOOKUPS: dict[int, list[str]] = {
    32: [], 16: [FP16], 8: [INT8_BY_ROW, INT8_BY_DIMENSION], 3: [INT3_BY_ROW], 2: [INT2_BY_ROW]
}  # fmt: skip
_FORMS_OF_PRODUCTS: dict[int, list[str]] = {
    **_FORMS_OF_LOOKUPS,
    8: [INT8_BY_ROW, INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC],
    4: [INT4_BY_ROW, INT4_BY_ROW_STATIC, INT4_BY_ROW_DYNAMIC],
}


def _count_bytes(table: Table, form: str) -> int:
    return quantized_tables.count_table_bytes(table, form)[1]


def _choose_integer_form(speedups: Mapping[str, Mapping[int, float]]) -> str | None:
    """Return the form with the faster integer product if it is clearly faster than the first, a product of floats.

    Static and dynamic products are compared as in layers.
    """
    speeds = {form: geometric_mean(by_batch) for form, by_batch in speedups.items()}
    floats, *integer_forms = speeds
    if not integer_forms:
        return None
    static, dynamic = (
        next(form for form in integer_forms if SCORED_TABLE_FORMS[form][1] == kind)
        for kind in (INT8_STATIC, INT8_DYNAMIC)
    )
    best = dynamic if speeds[dynamic] > MIN_DYNAMIC_ADVANTAGE * speeds[static] else static
    return best if speeds[best] >= MIN_SPEEDUP * speeds[floats] else None


def _describe_speedups(form: str, speedups: Mapping[str, Mapping[int, float]]) -> str:
    speeds = {name: geometric_mean(by_batch) for name, by_batch in speedups.items()}
    all_speeds = ", ".join(f"{name} {speed:.2f}" for name, speed in speeds.items())
    return f"lookup and product {speeds[form]:.2f} times as fast as in fp32" + (
        f" ({all_speeds})" if len(speeds) > 1 else ""
    )


def _choose_table_form(table: Table, speedups: Mapping[str, Mapping[int, float]]) -> tuple[str, str]:
    speeds = {form: geometric_mean(by_batch) for form, by_batch in speedups.items()}
    best = max(speeds, key=lambda form: (speeds[form], -_count_bytes(table, form)))
    all_speeds = ", ".join(f"{form} {speed:.2f}" for form, speed in speeds.items())
    if best != INT8_BY_DIMENSION:
        return best, f"lookups {speeds[best]:.2f} times as fast as in fp32" + (
            f" ({all_speeds})" if len(speeds) > 1 else ""
        )
    error = quantized_tables.error_by_dimension(table)
    if error > MAX_DIMENSION_ERROR:
        return INT8_BY_ROW, f"a scale per dimension has an error of {error:.1%} of the numbers; {all_speeds}"
    return (
        best,
        f"lookups {speeds[best]:.2f} times as fast as in fp32, with an error of {error:.1%} of the numbers; {all_speeds}",
    )


def _list_excluded(candidates: Candidates, is_table: bool) -> tuple[WeightChoice, ...]:
    sizes = {
        weight: 4 * weight.shape[0] * weight.shape[1] for weight in candidates.excluded if weight.is_table is is_table
    }
    return tuple(
        WeightChoice(weight.name, weight.shape, FP32, weight.reason, {}, (size, size)) for weight, size in sizes.items()
    )


def keep_float32(choice: WeightChoice, reason: str) -> WeightChoice:
    """Return the choice that leaves a weight in fp32."""
    return WeightChoice(choice.name, choice.shape, FP32, reason, choice.speedups, (choice.bytes[0],) * 2, choice.error)


def _record_requests(model: ir.Model, values: Sequence[ir.Value], cycle: RequestCycle) -> list[Arrays]:
    """Return the arrays of `values` at each request, by name; the requests have one batch size."""
    return [dict(arrays) for arrays in observe_each(model, [value.name or "" for value in values], cycle)]


def _select_values(values_by_batch: RequestCycles, values: Sequence[ir.Value]) -> dict[int, list[Arrays]]:
    names = [value.name or "" for value in values]
    return {
        batch: [{name: request_values[name] for name in names} for request_values in cycle]
        for batch, cycle in values_by_batch.items()
    }


def compute_speedups(times: Times, form: str) -> dict[int, float]:
    """Return the speed-up of a form over fp32, by batch size."""
    return {batch: milliseconds / times[form][batch] for batch, milliseconds in times[FP32].items()}


def geometric_mean(ratios: Mapping[int, float]) -> float:
    """Return the geometric mean over batch sizes.

    >>> round(geometric_mean({1: 0.5, 256: 8.0}), 6)
    2.0
    """
    return exp(sum(log(speedup) for speedup in ratios.values()) / len(ratios)) if ratios else 1.0
