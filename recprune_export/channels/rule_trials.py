"""`infer_channel_rules`: find the effect of operators without a rule on channels by trial.

An operator carries an axis from its operands to its results if removing index i before it equals removing index i after it. This is
compared bit for bit in float64, on values from the user's rows and on sampled ones: of many magnitudes and signs, sorted, tied, and with
one index that differs from all others (in size, NaN, infinity, zero, a repeated value), for the removal of single indices, of random
sets, and for every width. If there is one difference or error, there is no rule. No number of trials is a proof: an operator that treats
a value specially is not detected if that value is never sampled.

The soundness check of the pruned program runs with inferred rules as with written ones.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from recprune_export.channels.inferred_rules import INFERRED, CarriedAxis, InferredRule, NoInferredRule
from recprune_export.channels.walk import RULES, WIDEST_AXIS, operator_name
from recprune_export.program.program import Program
from recprune_export.program.recorder import record_values
from recprune_export.progress import track

Operands = Sequence[Tensor]
Kept = Tensor  # the indices of an axis that are not removed

TRIAL_ROWS = 8  # rows of the user whose values are tried
WIDTHS = 96  # indices that are tried one by one; on a wider axis, evenly spaced
RANDOM_SETS = 3  # of removed indices, for each draw
MOST_PAIRINGS = 64  # of axes of several operands
SCALES = (1e-3, 1.0, 1e3, 1e6)
FINITE_OUTLIERS = (0.0, 1e-30, -1e-30, 3.0, -3.0, 30.0, -30.0, 1e4, -1e4, 1e9, -1e9, 1e30, -1e30)
OUTLIERS = (*FINITE_OUTLIERS, math.nan, math.inf, -math.inf)
_WIDER = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
_NOT_A_FUNCTION = (
    torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view,
)  # fmt: skip


class _Differs(Exception):
    """No rule can be inferred for the operator; the message states the reason."""


def infer_channel_rules(program: Program, request: Mapping[str, np.ndarray]) -> Program:
    """Return `program` with an inferred rule, or the reason for none, at every node whose operator has no rule.

    `request` contains rows whose values are tried. Time: a few hundred calls of the operator for each axis of its operands. The rules
    depend only on the graph and the rows.
    """
    nodes = [n for n in program.module.graph.nodes if n.op == "call_function" and n.target not in RULES]
    if not nodes:
        return program
    program = program.with_copied_graph()
    nodes = [n for n in program.module.graph.nodes if n.op == "call_function" and n.target not in RULES]
    names = {source.name for node in nodes for source in node.all_input_nodes}
    rows = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in request.items()}
    values = record_values(program, rows, names)
    notes = []
    for node in track(nodes, "Inferring rules"):
        found = infer_rule(node, [values[source.name] for source in node.all_input_nodes])
        node.meta[INFERRED] = found
        notes.append(_describe(node, found))
    return program.with_notes(tuple(dict.fromkeys(notes)))


def _describe(node: fx.Node, found: InferredRule | NoInferredRule) -> str:
    if isinstance(found, NoInferredRule):
        return f"No channel rule could be inferred for {operator_name(node)}: {found.reason}."
    return (
        f"The channel rule of {found.operator} is inferred from {found.trials:,} trials, not written: it is right as far as these "
        "and the soundness check show."
    )


def infer_rule(node: fx.Node, operands: Sequence[object]) -> InferredRule | NoInferredRule:
    """Return the rule of a node's operator by trials on `operands`, the values of its input nodes on some rows."""
    try:
        return _infer(node, operands)
    except _Differs as difference:
        return NoInferredRule(str(difference))


def _infer(node: fx.Node, operands: Sequence[object]) -> InferredRule:
    _require_function(node.target)
    tensors = [value for value in operands if isinstance(value, Tensor)]
    if len(tensors) < len(operands):
        raise _Differs("it takes values that are not tensors")
    own = [value.detach().to(_WIDER.get(value.dtype, value.dtype)) for value in tensors]
    operator = _Operator(node)
    operator(own)
    draws = [own, *_draw_operands(own)]
    answered = [draw for draw in draws if draw is own or operator.answers(draw)]
    if len(answered) < len(draws) / 2:
        raise _Differs("it fails on most drawn values")
    varies = [_varying_axes(source) for source in node.all_input_nodes]
    axes = [
        axis
        for place in _list_places(own, varies)
        if (axis := _find_axis(operator, own, varies, place)) is not None and _holds_on_all(operator, axis, answered)
    ]
    axes = [axis for axis in dict.fromkeys(axes) if axis.results.count(None) < len(axis.results)]
    _require_disjoint(axes)
    if not axes:
        raise _Differs("no axis of its operands is carried to its results index by index")
    if len(axes) > 1 and not _hold_together(operator, axes, answered):
        raise _Differs("axes that can be removed one by one cannot be removed together")
    axes = [_with_zeros(operator, axis, answered) for axis in axes]
    return InferredRule(operator_name(node), operator.trials, tuple(axes))


def _require_function(target: object) -> None:
    """Raise `_Differs` if the schema of an operator states that it is not a pure function of its operands."""
    if not isinstance(target, OpOverload):
        raise _Differs("it is no operator with a schema")
    schema = target._schema
    if schema.is_mutable or any(a.alias_info is not None for a in (*schema.arguments, *schema.returns)):
        raise _Differs("its schema says that it changes its operands or returns views of them")
    for tag in _NOT_A_FUNCTION:
        if tag in target.tags:
            raise _Differs(f"it has the tag {str(tag).rpartition('.')[2]}")


def _varying_axes(node: fx.Node) -> tuple[bool, ...]:
    """Return for each axis of a node's value whether its size varies with the request."""
    return tuple(not isinstance(size, int) for size in node.meta["val"].shape)


class _Operator:
    """A node's operator as a function of its tensor operands; it counts the comparisons."""

    def __init__(self, node: fx.Node) -> None:
        self._node = node
        self.trials = 0

    def __call__(self, operands: Operands) -> tuple[Tensor, ...]:
        """Return the results. Raises `_Differs` if two calls differ, an operand is changed or a result is not a tensor."""
        first, second = self._call(operands), self._call(operands)
        if not _are_same(first, second):
            raise _Differs("two calls with the same operands differ")
        return first

    def _call(self, operands: Operands) -> tuple[Tensor, ...]:
        copies = [operand.clone(memory_format=torch.contiguous_format) for operand in operands]
        values = dict(zip(self._node.all_input_nodes, copies, strict=True))
        args, kwargs = fx.node.map_arg((self._node.args, dict(self._node.kwargs)), values.__getitem__)
        with torch.no_grad():
            try:
                result = self._node.target(*args, **kwargs)  # type: ignore[operator]
            except Exception as error:  # the user's code may raise any error for unexpected values
                raise _Differs(f"it fails in a trial ({type(error).__name__})") from error
        if not _are_same(operands, copies):
            raise _Differs("it changes its operands")
        results = tuple(result) if isinstance(result, tuple | list) else (result,)
        if not all(isinstance(value, Tensor) for value in results):
            raise _Differs("it returns values that are not tensors")
        return results

    def answers(self, operands: Operands) -> bool:
        """Return whether the operator accepts these operands."""
        try:
            self._call(operands)
        except _Differs:
            return False
        return True

    def carries(self, axes: Sequence[CarriedAxis], operands: Operands, kept: Sequence[Kept]) -> bool:
        """Return whether removing indices before the operator equals removing them after it."""
        self.trials += 1
        reduced, expected = list(operands), list(self(operands))
        for axis, indices in zip(axes, kept, strict=True):
            for number, place in axis.operands:
                reduced[number] = reduced[number].index_select(place, indices)
            for number, result_axis in enumerate(axis.results):
                if result_axis is not None:
                    expected[number] = expected[number].index_select(result_axis, indices)
        return _are_same(self(reduced), expected)


def _are_same(left: Operands, right: Operands) -> bool:
    """Return whether tensors are equal bit for bit, except the sign of zero and the bits of NaN."""
    return len(left) == len(right) and all(
        a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(left, right, strict=True)
    )


def _list_places(operands: Operands, varies: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """Return the axes that may contain channels, by index of the operand and axis."""
    return [
        (number, axis)
        for number, operand in enumerate(operands)
        for axis, size in enumerate(operand.shape)
        if 2 <= size <= WIDEST_AXIS and not varies[number][axis]
    ]


def _find_axis(
    operator: _Operator, operands: Operands, varies: Sequence[Sequence[bool]], place: tuple[int, int]
) -> CarriedAxis | None:
    """Return the carried axis that `place` belongs to, with the fewest other operands; None if it is not carried."""
    number, axis = place
    size = operands[number].shape[axis]
    others = [
        [None, *(a for a in range(other.ndim) if other.shape[a] == size and not varies[n][a])]
        if n != number
        else [axis]
        for n, other in enumerate(operands)
    ]
    pairings = sorted(
        itertools.islice(itertools.product(*others), MOST_PAIRINGS), key=lambda axes: sum(a is not None for a in axes)
    )
    kept = torch.arange(size) != size // 2
    for pairing in pairings:
        places = tuple((n, a) for n, a in enumerate(pairing) if a is not None)
        try:
            results = _find_result_axes(operator, operands, places, kept.nonzero().flatten())
            found = CarriedAxis(places, results, (), False)
            if operator.carries([found], operands, [kept.nonzero().flatten()]):
                return found
        except _Differs:
            continue
    return None


def _find_result_axes(
    operator: _Operator, operands: Operands, places: Sequence[tuple[int, int]], kept: Kept
) -> tuple[int | None, ...]:
    """Return the axis of each result that shrinks if only the `kept` indices of `places` remain."""
    reduced = list(operands)
    for number, axis in places:
        reduced[number] = reduced[number].index_select(axis, kept)
    axes: list[int | None] = []
    for before, after in zip(operator(operands), operator(reduced), strict=True):
        differing = [
            axis for axis, sizes in enumerate(zip(before.shape, after.shape, strict=True)) if len(set(sizes)) > 1
        ]
        if len(differing) > 1:
            raise _Differs("several axes of a result shrink")
        axes.append(differing[0] if differing else None)
    return tuple(axes)


def _holds_on_all(operator: _Operator, axis: CarriedAxis, draws: Sequence[Operands]) -> bool:
    """Return whether an axis is carried on all draws, for all sets of removed indices that are tried."""
    number, place = axis.operands[0]
    size = draws[0][number].shape[place]
    generator = torch.Generator().manual_seed(size)
    try:
        return all(
            operator.carries([axis], operands, [kept]) for operands in draws for kept in _draw_kept(size, generator)
        ) and all(
            operator.carries([axis], operands, [torch.randperm(size, generator=generator)[:width].sort().values])
            for width in np.linspace(1, size - 1, min(WIDTHS, size - 1), dtype=int).tolist()
            for operands in draws[:2]
        )
    except _Differs:
        return False


def _draw_kept(size: int, generator: torch.Generator) -> Iterator[Kept]:
    """Yield sets of kept indices: all except the index at which draws differ, only that index, and random sets."""
    special = torch.arange(size) == different_index(size)
    yield (~special).nonzero().flatten()
    yield special.nonzero().flatten()
    for _ in range(RANDOM_SETS):
        kept = torch.rand(size, generator=generator) < 0.5
        kept[int(torch.randint(size, (1,), generator=generator))] = True
        yield kept.nonzero().flatten()


def different_index(size: int) -> int:
    """Return the index of an axis at which drawn values differ from all others."""
    return size // 3


def _hold_together(operator: _Operator, axes: Sequence[CarriedAxis], draws: Sequence[Operands]) -> bool:
    """Return whether indices of all axes can be removed at once."""
    generator = torch.Generator().manual_seed(0)
    sizes = [draws[0][axis.operands[0][0]].shape[axis.operands[0][1]] for axis in axes]
    try:
        return all(
            operator.carries(axes, operands, kept)
            for operands in draws
            for kept in zip(*(_draw_kept(size, generator) for size in sizes), strict=True)
        )
    except _Differs:
        return False


def _require_disjoint(axes: Sequence[CarriedAxis]) -> None:
    """Raise `_Differs` where two carried axes meet on one axis of an operand or of a result."""
    for places in (
        [place for axis in axes for place in axis.operands],
        [(number, place) for axis in axes for number, place in enumerate(axis.results) if place is not None],
    ):
        if len(set(places)) < len(places):
            raise _Differs("several axes of its operands are carried to one axis")


def _with_zeros(operator: _Operator, axis: CarriedAxis, draws: Sequence[Operands]) -> CarriedAxis:
    """Return the axis with the operands whose zeros make the results zero, on all draws."""

    finite = [operands for operands in draws if all(bool(operand.isfinite().all()) for operand in operands)]

    def is_zero(numbers: Sequence[int]) -> bool:
        for operands in finite:
            index = torch.tensor([different_index(operands[axis.operands[0][0]].shape[axis.operands[0][1]])])
            masked = list(operands)
            for number, place in axis.operands:
                if number in numbers:
                    masked[number] = masked[number].index_fill(place, index, 0)
            operator.trials += 1
            results = zip(operator(masked), axis.results, strict=True)
            if any(bool(r.index_select(a, index).ne(0).any()) for r, a in results if a is not None):
                return False
        return True

    numbers = [number for number, _ in axis.operands]
    single = tuple(number for number in numbers if is_zero([number]))
    return CarriedAxis(axis.operands, axis.results, single, bool(single) or is_zero(numbers))


@dataclass(frozen=True)
class _Draw:
    """A method that samples the values of a floating-point operand like a given one."""

    seed: int
    values: Callable[[Tensor, torch.Generator], Tensor]

    def __call__(self, operands: Operands) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return [
            self.values(operand, generator) if operand.is_floating_point() else _shuffle(operand, generator)
            for operand in operands
        ]


def _shuffle(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return the same values in another order, because the valid integers are not known."""
    return values.flatten()[torch.randperm(values.numel(), generator=generator)].reshape(values.shape)


def _draw_operands(operands: Operands) -> Iterator[list[Tensor]]:
    """Yield operands of the same shapes with other values; integer operands keep their set of values."""
    yield from (_Draw(seed, values)(operands) for seed, values in enumerate(_list_distributions()))
    for number, operand in enumerate(operands):
        if operand.is_floating_point():
            for axis in range(operand.ndim):
                yield from (
                    _with_outlier(operands, number, axis, outlier, seed) for seed, outlier in enumerate(OUTLIERS)
                )
                yield _with_repeated_index(operands, number, axis)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def _list_distributions() -> list[Callable[[Tensor, torch.Generator], Tensor]]:
    def along_last(values: Tensor, descending: bool) -> Tensor:
        return values.sort(dim=-1, descending=descending).values if values.ndim else values

    def log_uniform(like: Tensor, generator: torch.Generator) -> Tensor:
        exponents = torch.rand(like.shape, generator=generator, dtype=like.dtype) * 60 - 30
        return _normal(like, generator).sign() * 10**exponents

    return [
        *(lambda x, g, scale=scale: scale * _normal(x, g) for scale in SCALES),
        lambda x, g: torch.rand(x.shape, generator=g, dtype=x.dtype),
        lambda x, g: -torch.rand(x.shape, generator=g, dtype=x.dtype),
        lambda x, g: _normal(x, g).abs() + 1.0,
        lambda x, g: _normal(x, g).round(),
        lambda x, g: along_last(_normal(x, g), descending=False),
        lambda x, g: along_last(_normal(x, g), descending=True),
        lambda x, g: torch.zeros_like(x),
        lambda x, g: torch.full_like(x, 0.5),
        log_uniform,
        _shuffle,
        lambda x, g: 10.0 * _shuffle(x, g),
        lambda x, g: -_shuffle(x, g),
    ]


def _with_outlier(operands: Operands, number: int, axis: int, outlier: float, seed: int) -> list[Tensor]:
    """Return drawn operands; one of them has another value at one index of an axis, in all elements of it or in one."""
    drawn = _Draw(seed, lambda x, g: (0.1 if seed % 2 else 1.0) * _normal(x, g))(operands)
    different = drawn[number].select(axis, different_index(drawn[number].shape[axis]))
    if seed % 3 or not different.numel():
        different.fill_(outlier)
    else:
        different[(0,) * different.ndim] = outlier
    return drawn


def _with_repeated_index(operands: Operands, number: int, axis: int) -> list[Tensor]:
    """Return drawn operands; one of them has the same values at two indices of an axis."""
    drawn = _Draw(number, _normal)(operands)
    size = drawn[number].shape[axis]
    drawn[number].select(axis, different_index(size)).copy_(drawn[number].select(axis, size - 1))
    return drawn
