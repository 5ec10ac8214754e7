"""Decide: for each linear layer the fastest form, for each table the fastest of those that are small enough."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, log

import onnx_ir as ir

from recprune_export.onnx.layers import Linear
from recprune_export.onnx.skeleton import fill_shapes
from recprune_export.quantisation import layers, tables
from recprune_export.quantisation.candidates import Candidates, Table, candidates_of, end_of
from recprune_export.quantisation.observe import Arrays, observe
from recprune_export.quantisation.plan import (
    BY_DIMENSION,
    BY_ROW,
    DYNAMIC,
    FOUR_BITS,
    FOUR_BITS_IN_BLOCKS,
    HALF,
    PLAIN,
    STATIC,
    Choice,
    Mode,
    QuantisationPlan,
)
from recprune_export.quantisation.timing import Speedups, Stopwatch, part_of
from recprune_export.validation.requests import Request

CLEARLY = 1.05  # times faster, over all batch sizes: what a layer has to be to change at all
# Times faster than static a dynamic layer has to be: its step is that of the whole request, so that the answer for one row
# depends on the rows beside it.
WORTH_DEPENDENCE = 1.1
COARSE = 0.015  # of the root mean square of a table: the most that a scale for each dimension may put it off


def decide(
    model: ir.Model, mode: Mode, requests: Mapping[int, Request], stopwatch: Stopwatch, advance: Callable[[str], None]
) -> QuantisationPlan:
    """Measure the forms of each layer and table on `requests`, which are of the batch sizes asked for; choose by them.

    The same times give the same plan.
    """
    fill_shapes(model)
    found = candidates_of(model)
    if mode == "none":
        return QuantisationPlan(mode, (), ())
    operands = [layer.operand.name or "" for layer in found.layers.values()]
    ids = [table.lookups[0].inputs[1].name or "" for table in found.tables.values()]  # type: ignore[union-attr]
    wanted = ids if mode == "fp16" else [*operands, *ids]
    inside = {batch: observe(model, wanted, [request]) for batch, request in requests.items()}
    chosen_layers = []
    for name, layer in () if mode == "fp16" else found.layers.items():
        advance(name)
        chosen_layers.append(_layer(model, name, layer, inside, stopwatch))
    chosen_tables = []
    for name, table in found.tables.items():
        advance(name)
        chosen_tables.append(_table(model, mode, table, inside, stopwatch))
    left = () if mode == "fp16" else _left(found, is_table=False)
    return QuantisationPlan(
        mode, (*_none_in_the_red(chosen_layers), *left), (*chosen_tables, *_left(found, is_table=True))
    )


def _layer(model: ir.Model, name: str, layer: Linear, inside: Mapping[int, Arrays], stopwatch: Stopwatch) -> Choice:
    part = part_of(model, layer.operand, end_of(layer))
    measured = stopwatch(part, name, (STATIC, DYNAMIC), _given(inside, layer.operand))
    static, dynamic = (overall(measured[form]) for form in (STATIC, DYNAMIC))
    form, speedup = (DYNAMIC, dynamic) if dynamic > WORTH_DEPENDENCE * static else (STATIC, static)
    reason = f"{speedup:.2f} times as fast as in fp32; static {static:.2f}, dynamic {dynamic:.2f}"
    if speedup < CLEARLY:
        form, reason = PLAIN, f"not clearly faster in int8: static {static:.2f} times as fast, dynamic {dynamic:.2f}"
    before, after = layers.bytes_of(layer)
    sizes = (before, before if form == PLAIN else after)
    times = measured[STATIC if form == PLAIN else form]
    return Choice(name, (layer.inputs, layer.outputs), form, reason, times, sizes)


def _none_in_the_red(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Leave out of each batch size the layers that lose most there, until all together are no slower.

    Sizes of layers stand for their times: a layer that is slower at batch 1 is small, and what it loses is little.
    """
    kept = {choice.name: choice for choice in choices}
    for batch in {batch for choice in choices for batch in choice.speedups}:
        while True:
            quantised = [choice for choice in kept.values() if choice.is_quantised]
            weights = [choice.shape[0] * choice.shape[1] for choice in quantised]
            gain = sum(w * log(c.speedups[batch]) for w, c in zip(weights, quantised, strict=True))
            if gain >= 0:
                break
            worst = min(quantised, key=lambda choice: (choice.speedups[batch], choice.name))
            kept[worst.name] = plain(
                worst, f"slower at batch {batch}: {worst.speedups[batch]:.2f} times as fast as in fp32"
            )
    return tuple(kept.values())


def _table(model: ir.Model, mode: Mode, table: Table, inside: Mapping[int, Arrays], stopwatch: Stopwatch) -> Choice:
    forms = _forms(mode, table)
    if not forms:
        return Choice(
            table.name, table.shape, PLAIN, "it holds numbers that fp16 cannot", {}, tables.bytes_of(table, PLAIN)
        )
    lookup = table.lookups[0]
    ids = lookup.inputs[1]
    assert ids is not None
    measured = stopwatch(part_of(model, ids, lookup.outputs[0]), table.name, forms, _given(inside, ids))
    form, reason = _best_table(table, measured)
    return Choice(table.name, table.shape, form, reason, measured[form], tables.bytes_of(table, form))


def _forms(mode: Mode, table: Table) -> list[str]:
    if mode == "fp16":
        return [HALF] if tables.fits_half(table) else []
    if mode == "int8":
        return [BY_ROW, BY_DIMENSION]
    return [FOUR_BITS, FOUR_BITS_IN_BLOCKS] if tables.fits_blocks(table) else [FOUR_BITS]


def _best_table(table: Table, measured: Speedups) -> tuple[str, str]:
    speeds = {form: overall(times) for form, times in measured.items()}
    best = max(speeds, key=lambda form: speeds[form])
    said = ", ".join(f"{form} {speed:.2f}" for form, speed in speeds.items())
    if best != BY_DIMENSION:
        return best, f"lookups {speeds[best]:.2f} times as fast as in fp32" + (f" ({said})" if len(speeds) > 1 else "")
    error = tables.error_by_dimension(table)
    if error > COARSE:
        return BY_ROW, f"a scale for each dimension is off by {error:.1%} of the numbers; {said}"
    return best, f"lookups {speeds[best]:.2f} times as fast as in fp32, off by {error:.1%} of the numbers; {said}"


def _left(found: Candidates, is_table: bool) -> tuple[Choice, ...]:
    sizes = {each: 4 * each.shape[0] * each.shape[1] for each in found.left if each.is_table is is_table}
    return tuple(Choice(each.name, each.shape, PLAIN, each.reason, {}, (size, size)) for each, size in sizes.items())


def plain(choice: Choice, reason: str) -> Choice:
    """Return the choice to leave a weight as it is."""
    return Choice(choice.name, choice.shape, PLAIN, reason, choice.speedups, (choice.bytes[0],) * 2, choice.error)


def _given(inside: Mapping[int, Arrays], value: ir.Value) -> dict[int, Arrays]:
    name = value.name or ""
    return {batch: {name: arrays[name]} for batch, arrays in inside.items()}


def overall(speedups: Mapping[int, float]) -> float:
    """Return the geometric mean over batch sizes.

    >>> overall({1: 0.5, 256: 8.0})
    2.0
    """
    return exp(sum(log(speedup) for speedup in speedups.values()) / len(speedups)) if speedups else 1.0
