"""Dimensions and bits chosen together: the least predicted loss within a budget of bytes, and of time if that is limited.

Every group has options, a width and the bits of its tables, and every layer has its bits; all losses are in units of the
expected loss, so that dimensions, hidden units and bits are compared by one price, the loss per byte. A plan of least loss minimizes loss
+ λ · bytes for some price λ (Everett 1963, "Generalized Lagrange multiplier method"; bits by rate and distortion: Shoham and Gersho
1988). For each λ the options are chosen one group after the other until none changes, because the bytes of a layer depend on the widths
on both sides of it. Then the tables' options are chosen again, by an exact knapsack, within the bytes that hidden widths leave. The
Lagrangian estimates the least loss of any plan within the budget.

Among plans with nearly equal losses the fastest is chosen: single options are changed as long as that saves time, keeps to the bytes, and
adds no more than `TIED_LOSS_FRACTION` to the loss. Faster plans minimize loss + λ · bytes + μ · time at increasing prices μ of time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recprune_export.program.program import Program
from recprune_export.pruning.allocation.allocate import ApproximateCounts
from recprune_export.pruning.allocation.knapsack import choose_options
from recprune_export.pruning.allocation.request_time import RequestTime
from recprune_export.pruning.allocation.table_options import GroupOptions
from recprune_export.pruning.pruning_constants import TIED_LOSS, TIED_LOSS_FRACTION
from recprune_export.stored_bits import count_weight_bytes

STEPS = 40  # of the bisection of λ
MAX_SWEEPS = 30  # over all groups at one λ
TIME_PRICE_STEP = 4.0  # ratio of the price of time of a plan to that of the one before
TIME_PRICE_STEPS = 6  # of the bisection between two of these prices
FIRST_TIME_PRICE = 0.01  # of the price of time, from the loss and the time of a plan


@dataclass(frozen=True)
class Allocation:
    """The width of each group, the bits of each table and layer, and the groups whose kept dimensions are turned.

    `bytes` are those of all weights, `loss` is the predicted loss, `least_loss_estimate` that of any plan within the budget, from
    the dual of the choice. `microseconds` are predicted for the reads of weights (`RequestTime`).
    """

    widths: Mapping[str, int]
    table_bits: Mapping[str, int]
    layer_bits: Mapping[str, int]
    turned: frozenset[str]
    bytes: int
    loss: float
    microseconds: float
    least_loss_estimate: float


class RateDistortion:
    """The options of all groups and layers of a program, and their bytes, losses and times.

    `options` are those of each group and of each table outside the groups, `layer_losses` the predicted loss of each layer
    by its bits. Other parameters have 32 bits.
    """

    def __init__(
        self,
        program: Program,
        options: Sequence[GroupOptions],
        layer_losses: Mapping[str, Mapping[int, float]],
        time: RequestTime,
    ) -> None:
        self._program, self._options, self._layer_losses = program, {o.name: o for o in options}, layer_losses
        self._in_groups = {table for o in options for table in o.tables}
        self._parameters = program.parameters()
        self.time = time

    @property
    def can_choose(self) -> bool:
        """Whether any weight has a choice of width or bits."""
        return bool(self._options or self._layer_losses)

    def allocate(self, budget: int, max_microseconds: float = math.inf) -> Allocation | None:
        """Return the allocation of least predicted loss whose weights have at most `budget` bytes; None if none has.

        If the time is limited, the price of time is bisected for plans that take at most `max_microseconds`, and remaining time is used
        to reduce the loss; None if no plan is fast enough. Takes O(λ steps · sweeps · options) time for each price.
        """
        estimate, too_low = None, 0.0
        for state in self._list_states(budget):
            estimate = state.estimate if estimate is None else estimate
            if state.microseconds() <= max_microseconds:
                if state.time_price:
                    state = self._refine(
                        state, too_low or state.time_price / TIME_PRICE_STEP**2, budget, max_microseconds
                    )
                return state.allocation(estimate)
            too_low = state.time_price
        return None

    def _refine(self, state: "_State", low: float, budget: int, max_microseconds: float) -> "_State":
        """Return a plan with less loss than `state`, which is fast enough; no plan at the price `low` is."""
        high = state.time_price
        state.spend_time(budget, max_microseconds)
        for _ in range(TIME_PRICE_STEPS):
            middle = math.sqrt(low) * math.sqrt(high)
            trial = self._plan(budget, middle)
            if trial.microseconds() > max_microseconds:
                low = middle
                continue
            high = middle
            trial.spend_time(budget, max_microseconds)
            state = min(state, trial, key=_State.loss)
        return state

    def _list_states(self, budget: int) -> Iterator["_State"]:
        """Yield the plan of least loss within `budget` bytes, and plans at rising prices of time, each faster than all before."""
        if self.count_fewest_bytes() > budget:
            return
        state = self._plan(budget, 0.0)
        state.save_time(budget)
        fastest = state.microseconds()
        price = FIRST_TIME_PRICE * (state.loss() + TIED_LOSS) / max(fastest, 1e-9)
        highest = 1e6 * self._sum_largest_losses() / max(fastest, 1e-9)
        yield state
        least = self._minimize(0.0, 1e30).microseconds()
        while price < highest and fastest > least * 1.001:
            state = self._plan(budget, price)
            if state.microseconds() < fastest:
                fastest = state.microseconds()
                yield state
            price *= TIME_PRICE_STEP

    def count_fewest_bytes(self) -> int:
        """Return the bytes of the weights at the least widths and bits."""
        return self._minimize(1e30, 0.0).bytes()

    def _plan(self, budget: int, time_price: float) -> "_State":
        """Return the choice within `budget` bytes of least loss and time at its price, with an estimate of the least of them."""
        state = self._minimize(0.0, time_price)
        estimate = state.objective(time_price)
        if state.bytes() > budget:
            low, high = self._bracket(budget, time_price)
            state = self._minimize(high, time_price)
            for _ in range(STEPS):
                middle = math.sqrt(low) * math.sqrt(high)  # the product of two tiny prices would be 0
                trial = self._minimize(middle, time_price)
                estimate = max(estimate, trial.objective(time_price) + middle * (trial.bytes() - budget))
                if trial.bytes() <= budget:
                    high, state = middle, trial
                else:
                    low = middle
                if high / low < 1.001:
                    break
            self._fill(state, budget, time_price)
        state.time_price, state.estimate = time_price, estimate
        return state

    def _sum_largest_losses(self) -> float:
        return max(sum(float(o.losses.max()) for o in self._options.values()), 1e-12)

    def _bracket(self, budget: int, time_price: float) -> tuple[float, float]:
        """Return prices, the first too low for `budget`, the second high enough."""
        price = self._sum_largest_losses() / max(budget, 1)
        while self._minimize(price, time_price).bytes() > budget:
            price *= 16.0
        low = price / 16.0
        while low > 1e-300 and self._minimize(low, time_price).bytes() <= budget:
            price, low = low, low / 16.0
        return low, price

    def _minimize(self, price: float, time_price: float) -> "_State":
        state = _State(self)
        for _ in range(MAX_SWEEPS):
            changed = False
            for name in self._options:
                changed |= state.choose_option(name, price, time_price)
            changed |= state.choose_layer_bits(price)
            if not changed:
                break
        return state

    def _fill(self, state: "_State", budget: int, time_price: float) -> None:
        """Use the remaining bytes: an exact choice of the tables' options, then the best single changes."""
        state.choose_tables(budget, time_price)
        while state.improve(budget, time_price):
            pass


@dataclass(frozen=True)
class _Costs:
    """Bytes, losses and microseconds of the options of a group, each [options]."""

    bytes: np.ndarray
    losses: np.ndarray
    microseconds: np.ndarray

    def objective(self, time_price: float) -> np.ndarray:
        return self.losses + time_price * self.microseconds if time_price else self.losses


class _State:
    def __init__(self, problem: RateDistortion) -> None:
        self._problem = problem
        self.counts = ApproximateCounts(problem._program)
        self.option = {name: options.widest for name, options in problem._options.items()}
        self.layer_bits = {name: max(losses) for name, losses in problem._layer_losses.items()}
        self.time_price, self.estimate = 0.0, 0.0

    def _bytes_of_elements(self, name: str) -> float:
        """Return the bytes of one element of a parameter that is not a table of a group."""
        return 0.0 if name in self._problem._in_groups else self.layer_bits.get(name, 32) / 8

    def _time_of_elements(self, name: str) -> float:
        """Return the microseconds of one element of a parameter that is not a table of a group."""
        return 0.0 if name in self._problem._in_groups else self._problem.time.predict_element(name)

    def costs(self, name: str) -> _Costs:
        """Return the costs of the options of a group, with the other widths unchanged."""
        options = self._problem._options[name]
        if not options.is_group:
            return _Costs(options.table_bytes, options.losses, options.microseconds)
        elements = self.counts.count_by_parameter(name)
        size = sum(number * self._bytes_of_elements(p) for p, number in elements)
        time = sum(number * self._time_of_elements(p) for p, number in elements)
        return _Costs(
            options.table_bytes + size * options.widths, options.losses, options.microseconds + time * options.widths
        )

    def choose_option(self, name: str, price: float, time_price: float) -> bool:
        costs = self.costs(name)
        return self._set(name, int(np.argmin(costs.objective(time_price) + price * costs.bytes)))

    def _set(self, name: str, option: int) -> bool:
        if option == self.option[name]:
            return False
        self.option[name] = option
        if self._problem._options[name].is_group:
            self.counts.set_width(name, int(self._problem._options[name].widths[option]))
        return True

    def layer_bytes(self, name: str, bits: int) -> float:
        outputs, inputs = self.counts.shape(name)
        return count_weight_bytes((math.ceil(inputs), math.ceil(outputs)), bits, is_table=False)

    def choose_layer_bits(self, price: float) -> bool:
        before = dict(self.layer_bits)
        for name, losses in self._problem._layer_losses.items():
            self.layer_bits[name] = min(losses, key=lambda bits: losses[bits] + price * self.layer_bytes(name, bits))
        return self.layer_bits != before

    def bytes(self) -> int:
        """Return the bytes of all weights."""
        total = 0.0
        for name, parameter in self._problem._parameters.items():
            if name in self.layer_bits:
                total += self.layer_bytes(name, self.layer_bits[name])
            elif name not in self._problem._in_groups:
                total += math.prod(self.counts.shape(name)) * parameter.element_size()
        total += sum(float(o.table_bytes[self.option[name]]) for name, o in self._problem._options.items())
        return int(np.ceil(total))

    def loss(self) -> float:
        """Return the predicted loss."""
        groups = sum(float(o.losses[self.option[name]]) for name, o in self._problem._options.items())
        return groups + sum(losses[self.layer_bits[name]] for name, losses in self._problem._layer_losses.items())

    def microseconds(self) -> float:
        """Return the predicted time of a request."""
        tables = sum(float(o.microseconds[self.option[name]]) for name, o in self._problem._options.items())
        others = ((name, self._time_of_elements(name)) for name in self._problem._parameters)
        return tables + sum(math.prod(self.counts.shape(name)) * time for name, time in others if time)

    def objective(self, time_price: float) -> float:
        """Return the loss, and the time at its price."""
        return self.loss() + time_price * self.microseconds() if time_price else self.loss()

    def choose_tables(self, budget: int, time_price: float) -> None:
        """Choose the options of all groups with tables again, exactly, within the bytes that the others leave."""
        names = [name for name, o in self._problem._options.items() if o.tables]
        items = [self.costs(name) for name in names]
        current = sum(float(costs.bytes[self.option[name]]) for name, costs in zip(names, items, strict=True))
        room = budget - self.bytes() + int(current)
        sizes = [np.ceil(costs.bytes).astype(np.int64) for costs in items]
        choice = choose_options(
            [(size, costs.objective(time_price)) for size, costs in zip(sizes, items, strict=True)], room
        )
        before, objective = dict(self.option), self.objective(time_price)
        if choice is None:
            return
        for name, option in zip(names, choice.options, strict=True):
            self._set(name, option)
        if self.bytes() > budget or self.objective(time_price) > objective:
            for name in names:  # groups with tables on both sides of one weight
                self._set(name, before[name])

    def improve(self, budget: int, time_price: float, max_microseconds: float = math.inf) -> bool:
        """Make the single change that gains most for its bytes within the limits; return whether there is one."""
        room, best, gain = budget - self.bytes(), None, 0.0
        slack = max_microseconds - self.microseconds()
        for name in self._problem._options:
            costs, now = self.costs(name), self.option[name]
            objectives = costs.objective(time_price)
            extra, saved = costs.bytes - costs.bytes[now], objectives[now] - objectives
            allowed = (extra <= room) & (saved > 1e-12 * objectives[now])
            allowed &= costs.microseconds - costs.microseconds[now] <= slack
            rates = np.where(allowed, saved / np.maximum(extra, 1.0), 0.0)
            if rates.max() > gain:
                best, gain = (name, int(rates.argmax())), float(rates.max())
        return best is not None and self._change(*best, budget, max_microseconds)

    def spend_time(self, budget: int, max_microseconds: float) -> None:
        """Change single options as long as that lowers the loss within the limits."""
        while self.improve(budget, 0.0, max_microseconds):
            pass

    def save_time(self, budget: int) -> None:
        """Change single options as long as that saves time within the budget and adds almost nothing to the loss."""
        most = self.loss() * (1.0 + TIED_LOSS_FRACTION) + TIED_LOSS
        while self._save_time_once(budget, most):
            pass

    def _save_time_once(self, budget: int, most_loss: float) -> bool:
        """Make the change that saves most time for its loss; return whether there is one."""
        room, best, gain = budget - self.bytes(), None, 0.0
        slack = most_loss - self.loss()
        for name in self._problem._options:
            costs, now = self.costs(name), self.option[name]
            lost, saved = costs.losses - costs.losses[now], costs.microseconds[now] - costs.microseconds
            allowed = (costs.bytes - costs.bytes[now] <= room) & (lost <= slack)
            allowed &= saved > 1e-3 * max(float(costs.microseconds[now]), 1e-9)
            rates = np.where(allowed, saved / np.maximum(lost, 1e-3 * TIED_LOSS), 0.0)
            if rates.max() > gain:
                best, gain = (name, int(rates.argmax())), float(rates.max())
        return best is not None and self._change(*best, budget)

    def _change(self, name: str, option: int, budget: int, max_microseconds: float = math.inf) -> bool:
        """Set an option, or leave it where all bytes, rounded up, or the time exceed the limits."""
        before = self.option[name]
        self._set(name, option)
        if self.bytes() > budget or self.microseconds() > max_microseconds:
            self._set(name, before)
            return False
        return True

    def allocation(self, least_loss_estimate: float) -> Allocation:
        """Return the choice."""
        problem = self._problem
        chosen = {name: (o, self.option[name]) for name, o in problem._options.items()}
        return Allocation(
            {name: int(o.widths[i]) for name, (o, i) in chosen.items() if o.is_group},
            {table: int(bits[i]) for o, i in chosen.values() for table, bits in o.tables.items()},
            dict(self.layer_bits),
            frozenset(name for name, (o, i) in chosen.items() if o.turned[i]),
            self.bytes(),
            self.loss(),
            self.microseconds(),
            min(least_loss_estimate, self.loss()),
        )
