"""Guards after the inputs of a graph: ids out of range are replaced or refused, and large numbers are clipped.

ONNX counts negative ids from the end of a table, so without a guard -1 reads the last row, and in fused tables an id out of range reads
the rows of another field. A guard takes two nodes, which cost less than a microsecond for one row (docs/decisions/bad-ids.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_producer, get_constant_array, replace_uses
from recprune_export.program.signature import ERROR, BadId, IdRange, Input

REFUSED = float(1 << 62)  # beyond every table: a lookup of it fails
_CLIPPED_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT8, ir.DataType.UINT8)  # by ONNX Runtime


def guard_inputs(model: ir.Model, inputs: Sequence[Input]) -> int:
    """Insert a guard after each input with a rule (`Input.bad_ids`, `Input.number_limit`).

    Before: x [batch, …] read by any nodes, ids from `low` to `high`, `bad` in place of others. After: all of them read

    - `Mod(Clip(x, 0, high + 1), high + 1)` where low and bad are 0;
    - `Where(Less(m, high + 1), m, low)` with `m = Max(x, low)` for columns of ids of which each `bad` is `low`;
    - `Where(Equal(c, x), x, bad)` with `c = Clip(x, low, high)`, or Max and Min by column, in other cases;
    - `Where(Less(x, low), largest integer, x)` where ids are refused: the lookup refuses those that are too large;
    - `Clip(x, -limit, limit)` for numbers, which leaves NaN as it is.

    Returns the number of guarded inputs.
    """
    guarded = 0
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        nodes = _make_guard(model.graph, value, spec) if list(value.uses()) or value.is_graph_output() else []
        if nodes:
            result = nodes[-1].outputs[0]
            result.shape, result.type = value.shape, value.type
            replace_uses(value, result)
            for node in nodes:  # they must still read the input
                for position, operand in enumerate(node.inputs):
                    if operand is result:
                        node.replace_input_with(position, value)
            if len(model.graph):
                model.graph.insert_before(model.graph[0], nodes)
            else:
                model.graph.extend(nodes)
            guarded += 1
    return guarded


def share_number(numbers: np.ndarray) -> np.ndarray:
    """Return the one number, [], that all columns have, or `numbers` [columns]: ONNX Runtime starts a loop for each row of those.

    >>> share_number(np.array([9, 9])).tolist(), share_number(np.array([9, 8])).tolist()
    (9, [9, 8])
    """
    return np.asarray(numbers[0]) if (numbers == numbers[0]).all() else numbers


@dataclass(frozen=True)
class GuardedVector:
    """Ids from 0 to `limit` - 1 that a guard makes of `source`, [batch]; others become 0."""

    source: ir.Value
    limit: int


def match_guarded_vector(value: ir.Value) -> GuardedVector | None:
    """Return the ids before the guard `Mod(Clip(x, 0, n), n)` that computes `value`; None for other values."""
    mod = find_producer(value, "Mod")
    clip = find_producer(mod.inputs[0], "Clip") if mod is not None else None
    if mod is None or clip is None or clip.inputs[0] is None or len(clip.inputs) != 3:
        return None
    limits = [get_constant_array(v) for v in (mod.inputs[1], clip.inputs[2])]
    low = get_constant_array(clip.inputs[1])
    if any(limit is None or limit.ndim for limit in (*limits, low)):
        return None
    first, second = (int(limit) for limit in limits if limit is not None)
    return GuardedVector(clip.inputs[0], first) if first == second and low == 0 else None


def get_guarded_limits(value: ir.Value) -> np.ndarray | None:
    """Return a number for each column of `value`, or one for all, below which a guard keeps its ids; None without one."""
    vector = match_guarded_vector(value)
    if vector is not None:
        return np.array(vector.limit)
    where = find_producer(value, "Where")
    test = find_producer(where.inputs[0], "Less", "Equal") if where is not None else None
    if where is None or test is None or get_constant_array(where.inputs[2]) is None:
        return None
    if test.op_type == "Less":
        lowest = find_producer(where.inputs[1], "Max", "Clip")
        low = None if lowest is None else get_constant_array(lowest.inputs[1])
        is_guard = test.inputs[0] is where.inputs[1] and low is not None and bool((low >= 0).all())
        return get_constant_array(test.inputs[1]) if is_guard else None
    clipped = find_producer(test.inputs[0], "Clip", "Min")
    if clipped is None or test.inputs[1] is not where.inputs[1]:
        return None
    high = get_constant_array(clipped.inputs[2 if clipped.op_type == "Clip" else 1])
    return None if high is None else high + 1


def _make_guard(graph: ir.Graph, value: ir.Value, spec: Input) -> list[ir.Node]:
    """Return the nodes that read `value`; the last one gives the guarded value, in the same type."""
    guard = _Guard(graph, value, str(spec.name))
    if spec.number_limit is not None:
        guard.clip_numbers(spec.number_limit)
    if any(bad is not None for bad in spec.bad_ids):
        guard.check_ids(spec.ids, spec.bad_ids)
    return guard.nodes


class _Guard:
    """Appends the nodes of one guard; `value` is the result so far."""

    def __init__(self, graph: ir.Graph, value: ir.Value, name: str) -> None:
        assert value.dtype is not None
        self.nodes: list[ir.Node] = []
        self._graph, self._value, self._name, self._dtype = graph, value, name, value.dtype

    def clip_numbers(self, limit: float) -> None:
        """Clip numbers to ±limit."""
        self._value = self._add("Clip", self._value, self._constant("lowest", -limit), self._constant("highest", limit))

    def check_ids(self, ranges: Sequence[IdRange | None], bad_ids: Sequence[BadId]) -> None:
        """Replace or refuse ids; columns without a range are not changed, including NaN in them."""
        if self._is_float() or self._dtype in _CLIPPED_INTEGERS:
            self._check(ranges, bad_ids)
            return
        dtype, self._dtype = self._dtype, ir.DataType.INT64
        self._value = self._add("Cast", self._value, to=ir.DataType.INT64.value)
        self._check(ranges, bad_ids)
        self._add("Cast", self._value, to=dtype.value)

    def _check(self, ranges: Sequence[IdRange | None], bad_ids: Sequence[BadId]) -> None:
        largest, smallest = self._bounds()
        lows = [smallest if pair is None else pair[0] for pair in ranges]
        highs = [largest if pair is None else min(pair[1], largest) for pair in ranges]
        if all(bad == ERROR for bad in bad_ids) and not self._is_float():
            is_low = self._add("Less", self._value, self._constant("lowest", *lows))
            self._value = self._add("Where", is_low, self._constant("refused", largest), self._value)
            return
        filled = [self._replacement(bad, largest) for bad in bad_ids]
        if not self._is_float() and None not in ranges and filled == lows and max(highs) < largest:
            if len(ranges) == 1 and lows == [0]:
                self._wrap_to_zero(highs[0] + 1)
            else:
                self._replace_by_lowest(lows, highs)
            return
        self._replace(lows, highs, filled)

    def _wrap_to_zero(self, limit: int | float) -> None:
        end = self._constant("limit", limit)
        clipped = self._add("Clip", self._value, self._constant("lowest", 0), end)
        self._value = self._add("Mod", clipped, end)

    def _replace_by_lowest(self, lows: Sequence[int | float], highs: Sequence[int | float]) -> None:
        low, end = self._constant("lowest", *lows), self._constant("limit", *(high + 1 for high in highs))
        raised = self._add("Max", self._value, low)
        self._value = self._add("Where", self._add("Less", raised, end), raised, low)

    def _replace(
        self, lows: Sequence[int | float], highs: Sequence[int | float], filled: Sequence[int | float]
    ) -> None:
        low, high = self._constant("lowest", *lows), self._constant("highest", *highs)
        if len(lows) == 1:
            clipped = self._add("Clip", self._value, low, high)
        else:
            clipped = self._add("Min", self._add("Max", self._value, low), high)
        is_valid = self._add("Equal", clipped, self._value)
        self._value = self._add("Where", is_valid, self._value, self._constant("replacement", *filled))

    def _replacement(self, bad: BadId, largest: int | float) -> int | float:
        if bad is None:
            return float("nan") if self._is_float() else 0  # only NaN differs from itself
        if isinstance(bad, int):
            return bad
        return REFUSED if self._is_float() else int(largest)

    def _bounds(self) -> tuple[int | float, int | float]:
        if self._is_float():
            return float("inf"), float("-inf")
        limits = np.iinfo(self._dtype.numpy())
        return int(limits.max), int(limits.min)

    def _is_float(self) -> bool:
        return self._dtype.is_floating_point()

    def _constant(self, kind: str, *numbers: int | float) -> ir.Value:
        array = share_number(np.array(numbers, dtype=self._dtype.numpy()))
        return add_initializer(self._graph, f"{self._name}_{kind}", array)

    def _add(self, operator: str, *operands: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(operator, list(operands), attributes=attributes)
        self.nodes.append(node)
        return node.outputs[0]
