"""The options of each group: its widths, combined with the bits of its tables."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from recprune_export.channels.groups import Group, slice_positions
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.request_time import RequestTime
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.rounding_loss import TableRounding
from recprune_export.pruning.pruning_constants import SMALL_TABLE_FRACTION
from recprune_export.stored_bits import count_weight_bytes

TIME_PRICES = (0.0, 0.01, 0.1, 1.0, 10.0)  # in ranges of the loss for the range of the time


@dataclass(frozen=True)
class GroupOptions:
    """The options of one group, none of which another beats in bytes of tables, loss and time at the same width.

    `widths`, `losses`, `table_bytes`, `microseconds` and `turned` have one element for each option, as have the bits of each
    table; the time is that of the reads of tables. A table whose dimensions are not channels also has options, under its name and without
    widths.
    """

    name: str
    widths: np.ndarray
    losses: np.ndarray
    table_bytes: np.ndarray
    microseconds: np.ndarray
    turned: np.ndarray
    tables: Mapping[str, np.ndarray]
    is_group: bool = True

    @property
    def widest(self) -> int:
        """The option with all channels, of least loss."""
        return int(np.lexsort((self.losses, -self.widths))[0])


def find_controlled_tables(program: Program, group: Group) -> list[str]:
    """Return the tables all of whose dimensions are channels of `group`."""
    tables = [tensor for tensor, axis in group.axes() if tensor in program.analysis.tables and axis == 1]
    parameters = program.parameters()
    return [
        table
        for table in dict.fromkeys(tables)
        if parameters[table].ndim == 2 and slice_positions(group, table, 1).numel() == parameters[table].shape[1]
    ]


def is_narrowed(program: Program, table: str) -> bool:
    """Return whether any dimension of a table is a channel."""
    return any((table, 1) in group.axes() for group in program.analysis.groups)


def choose_widths(width: int, rounding: Callable[[int], int], *, has_tables: bool) -> list[int]:
    """Return the widths to choose from: at most 64, and fewer with tables, because their losses take longer to predict.

    >>> choose_widths(24, lambda width: width, has_tables=True)
    [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24]
    """
    step = max(1, width // 64)
    if not has_tables:
        return sorted({max(1, rounding(w)) for w in range(width, 0, -step)})
    steps = [w for w in range(1, width) if w % max(1, 1 << max(0, (w - 1).bit_length() - 3)) == 0]
    return [*steps, width]


def make_group_options(
    program: Program,
    group: Group,
    ranking: Ranking,
    widths: Sequence[int],
    roundings: Sequence[TableRounding],
    time: RequestTime,
) -> GroupOptions:
    """Combine the widths of a group with the bits of its tables; small tables have the same bits, so that one lookup serves them."""
    parameters = program.parameters()
    large, small = _split_small(program, roundings)
    ordered = [rounding for tables in (*([r] for r in large), small) for rounding in tables]
    options: list[tuple[int, bool, _Combination]] = []
    for number, width in enumerate(widths):
        for turned in (False, True) if roundings else (False,):
            entries = []
            for position, rounding in enumerate(ordered):
                rows, dimensions = parameters[rounding.table].shape
                shape, losses = (
                    (rows, dimensions // group.width * width),
                    rounding.turned if turned else rounding.unturned,
                )
                predict = partial(time.predict_table, rounding.table, shape, shares_lookup=position > len(large))
                entries.append(_list_bits(shape, losses, number, predict))
            together = [functools.reduce(_add, same_bits) for same_bits in zip(*entries[len(large) :], strict=True)]
            choices = [*entries[: len(large)], *([together] if together else [])]
            options += [(width, turned, combination) for combination in _combine(choices)]
    return GroupOptions(
        group.name,
        np.array([width for width, _, _ in options], dtype=np.float64),
        np.array([ranking.losses[width] + combination.loss for width, _, combination in options]),
        np.array([combination.bytes for _, _, combination in options], dtype=np.float64),
        np.array([combination.microseconds for _, _, combination in options]),
        np.array([turned for _, turned, _ in options]),
        {r.table: np.array([c.bits[n] for _, _, c in options]) for n, r in enumerate(ordered)},
    )


def _split_small(
    program: Program, roundings: Sequence[TableRounding]
) -> tuple[list[TableRounding], list[TableRounding]]:
    """Return the large tables, and those that have too few elements for separate bits."""
    parameters = program.parameters()
    total = sum(p.numel() for name, p in parameters.items() if name in program.analysis.tables)  # no remaps of ids
    small = [r for r in roundings if parameters[r.table].numel() < SMALL_TABLE_FRACTION * total]
    return [r for r in roundings if r not in small], small


def make_table_options(program: Program, rounding: TableRounding, time: RequestTime) -> GroupOptions:
    """Return the bits of a table whose dimensions cannot be removed."""
    rows, dimensions = program.parameters()[rounding.table].shape
    predict = partial(time.predict_table, rounding.table, (rows, dimensions))
    entries = _combine([_list_bits((rows, dimensions), rounding.unturned, 0, predict)])
    return GroupOptions(
        rounding.table,
        np.full(len(entries), dimensions, dtype=np.float64),
        np.array([entry.loss for entry in entries]),
        np.array([entry.bytes for entry in entries], dtype=np.float64),
        np.array([entry.microseconds for entry in entries]),
        np.zeros(len(entries), dtype=bool),
        {rounding.table: np.array([entry.bits[0] for entry in entries])},
        is_group=False,
    )


@dataclass(frozen=True)
class _Combination:
    """The bits of some tables, their bytes, the predicted loss of rounding them, and the time of their reads."""

    bytes: int
    loss: float
    microseconds: float
    bits: tuple[int, ...]


def _list_bits(
    shape: tuple[int, int], losses: Mapping[int, Tensor], width: int, predict_time: Callable[[int], float]
) -> list[_Combination]:
    """Return the bits of one table, [rows, dimensions], at the width of this number."""
    return [
        _Combination(
            count_weight_bytes(shape, bits, is_table=True), float(by_width[width]), predict_time(bits), (bits,)
        )
        for bits, by_width in losses.items()
    ]


def _combine(tables: Sequence[Sequence[_Combination]]) -> list[_Combination]:
    """Return combinations of one entry of each table, none of which another one beats in bytes, loss and time.

    If there are many, only those on lower convex hulls: no price per byte, with one of some prices of time, chooses another.
    """
    most = 64
    combinations = [_Combination(0, 0.0, 0.0, ())]
    for entries in tables:
        merged = [_add(c, e) for c in combinations for e in entries]
        combinations = _remove_beaten(merged)
        if len(combinations) > most:
            combinations = _find_hulls(combinations)
    return combinations


def _add(one: _Combination, other: _Combination) -> _Combination:
    return _Combination(
        one.bytes + other.bytes,
        one.loss + other.loss,
        one.microseconds + other.microseconds,
        (*one.bits, *other.bits),
    )


def _remove_beaten(combinations: Sequence[_Combination]) -> list[_Combination]:
    """Return the combinations that no other beats, by increasing bytes. Time: O(given · returned)."""
    kept: list[_Combination] = []
    for c in sorted(combinations, key=lambda c: (c.bytes, c.loss, c.microseconds)):
        if not any(k.loss <= c.loss and k.microseconds <= c.microseconds for k in kept):
            kept.append(c)
    return kept


def _find_hulls(combinations: Sequence[_Combination]) -> list[_Combination]:
    """Return the combinations on the lower convex hull of loss over bytes, for each of some prices of time."""
    losses, times = (
        [c.loss for c in combinations],
        [c.microseconds for c in combinations],
    )
    unit = (max(losses) - min(losses)) / max(max(times) - min(times), 1e-9)
    chosen: dict[tuple[int, ...], _Combination] = {}
    for price in TIME_PRICES:
        chosen.update((c.bits, c) for c in _lower_hull(combinations, price * unit))
    return sorted(chosen.values(), key=lambda c: (c.bytes, c.loss))


def _lower_hull(combinations: Sequence[_Combination], time_price: float) -> list[_Combination]:
    """Return the combinations, given by rising bytes, that some price per byte chooses."""
    hull: list[tuple[int, float, _Combination]] = []
    for c in combinations:
        objective = c.loss + time_price * c.microseconds
        if hull and objective >= hull[-1][1]:
            continue
        while len(hull) > 1:
            (a, loss_a, _), (b, loss_b, _) = hull[-2:]
            if (loss_b - loss_a) * (c.bytes - b) < (objective - loss_b) * (b - a):
                break
            hull.pop()
        hull.append((c.bytes, objective, c))
    return [c for *_, c in hull]
