"""Dimensions and bits chosen together: the least predicted loss within a budget of bytes.

Every group has options, a width and the bits of its tables, and every layer has its bits; all losses are in units of the
expected loss, so that a dimension, a hidden unit and a bit have one price, the loss for each byte. A plan of least loss
minimizes loss + λ · bytes for some price λ (Everett 1963, "Generalized Lagrange multiplier method"; bits by rate and
distortion: Shoham and Gersho 1988). For each λ the options are chosen one group after the other until none changes, because
the bytes of a layer depend on the widths on both sides of it. Then the tables' options are chosen again, by an exact knapsack, within
the bytes that hidden widths leave. The Lagrangian estimates the least loss of any plan within the budget. It bounds it from below
where no weight lies between two groups, as between tables; where one does, the choice for a λ may not be the best one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recprune_export.program.program import Program
from recprune_export.pruning.allocation.allocate import ApproximateCounts
from recprune_export.pruning.allocation.knapsack import choose_options
from recprune_export.pruning.allocation.table_options import GroupOptions
from recprune_export.stored_bits import count_weight_bytes

STEPS = 40  # of the bisection of λ
MAX_SWEEPS = 30  # over all groups at one λ


@dataclass(frozen=True)
class Allocation:
    """The width of each group, the bits of each table and layer, and the groups whose kept dimensions are turned.

    `bytes` are those of all weights, `loss` is the predicted loss, `bound` an estimate of the least loss
    within these bytes: a lower bound where the bytes of no weight depend on two widths.
    """

    widths: Mapping[str, int]
    table_bits: Mapping[str, int]
    layer_bits: Mapping[str, int]
    turned: frozenset[str]
    bytes: int
    loss: float
    bound: float


class RateDistortion:
    """The options of all groups and layers of a program, and their bytes and losses.

    `options` are those of each group and of each table outside of the groups, `layer_losses` the predicted loss of each layer
    by its bits. Other parameters have 32 bits.
    """

    def __init__(
        self, program: Program, options: Sequence[GroupOptions], layer_losses: Mapping[str, Mapping[int, float]]
    ) -> None:
        self._program, self._options, self._layer_losses = program, {o.name: o for o in options}, layer_losses
        self._in_groups = {table for o in options for table in o.tables}
        self._parameters = program.parameters()

    def allocate(self, budget: int) -> Allocation | None:
        """Return the allocation of least predicted loss whose weights have at most `budget` bytes; None where none has.

        Takes O(λ steps · sweeps · options) time.
        """
        if self.count_fewest_bytes() > budget:
            return None
        state = self._minimize(0.0)
        bound = state.loss()
        if state.bytes() > budget:
            low, high = self._bracket(budget)
            state = self._minimize(high)
            for _ in range(STEPS):
                middle = math.sqrt(low) * math.sqrt(high)  # the product of two tiny prices would be 0
                trial = self._minimize(middle)
                bound = max(bound, trial.loss() + middle * (trial.bytes() - budget))
                if trial.bytes() <= budget:
                    high, state = middle, trial
                else:
                    low = middle
                if high / low < 1.001:
                    break
            state = self._fill(state, budget)
        return state.allocation(bound)

    def count_fewest_bytes(self) -> int:
        """Return the bytes of the weights at the least widths and bits."""
        return self._minimize(1e30).bytes()

    def _bracket(self, budget: int) -> tuple[float, float]:
        """Return prices, the first too low for `budget`, the second high enough."""
        price = max(sum(float(o.losses.max()) for o in self._options.values()), 1e-12) / max(budget, 1)
        while self._minimize(price).bytes() > budget:
            price *= 16.0
        low = price / 16.0
        while low > 1e-300 and self._minimize(low).bytes() <= budget:
            price, low = low, low / 16.0
        return low, price

    def _minimize(self, price: float) -> "_State":
        state = _State(self)
        for _ in range(MAX_SWEEPS):
            changed = False
            for name in self._options:
                changed |= state.choose_option(name, price)
            changed |= state.choose_layer_bits(price)
            if not changed:
                break
        return state

    def _fill(self, state: "_State", budget: int) -> "_State":
        """Spend the bytes that are left: an exact choice of the tables' options, then the best single changes."""
        state.choose_tables(budget)
        while state.improve(budget):
            pass
        return state


class _State:
    def __init__(self, problem: RateDistortion) -> None:
        self._problem = problem
        self.counts = ApproximateCounts(problem._program)
        self.option = {name: options.widest for name, options in problem._options.items()}
        self.layer_bits = {name: max(losses) for name, losses in problem._layer_losses.items()}

    def _bytes_of_elements(self, name: str) -> float:
        """Return the bytes of one element of a parameter that is no table of a group."""
        return 0.0 if name in self._problem._in_groups else self.layer_bits.get(name, 32) / 8

    def slope(self, name: str) -> float:
        """Return the bytes of one channel of a group outside of its tables."""
        return sum(number * self._bytes_of_elements(p) for p, number in self.counts.count_by_parameter(name))

    def costs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes and the losses of the options of a group, with the other widths as they are."""
        options = self._problem._options[name]
        if not options.is_group:
            return options.table_bytes, options.losses
        return options.table_bytes + self.slope(name) * options.widths, options.losses

    def choose_option(self, name: str, price: float) -> bool:
        sizes, losses = self.costs(name)
        return self._set(name, int(np.argmin(losses + price * sizes)))

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
                size = 1.0
                for length in self.counts.shape(name):
                    size *= length
                total += size * parameter.element_size()
        total += sum(float(o.table_bytes[self.option[name]]) for name, o in self._problem._options.items())
        return int(np.ceil(total))

    def loss(self) -> float:
        """Return the predicted loss."""
        groups = sum(float(o.losses[self.option[name]]) for name, o in self._problem._options.items())
        return groups + sum(losses[self.layer_bits[name]] for name, losses in self._problem._layer_losses.items())

    def choose_tables(self, budget: int) -> None:
        """Choose the options of all groups with tables again, exactly, within the bytes that the others leave."""
        names = [name for name, o in self._problem._options.items() if o.tables]
        items = [self.costs(name) for name in names]
        current = sum(float(sizes[self.option[name]]) for name, (sizes, _) in zip(names, items, strict=True))
        room = budget - self.bytes() + int(current)
        choice = choose_options([(np.ceil(sizes).astype(np.int64), losses) for sizes, losses in items], room)
        before, loss = dict(self.option), self.loss()
        if choice is None:
            return
        for name, option in zip(names, choice.options, strict=True):
            self._set(name, option)
        if self.bytes() > budget or self.loss() > loss:  # groups with tables on both sides of one weight
            for name in names:
                self._set(name, before[name])

    def improve(self, budget: int) -> bool:
        """Make the single change that loses least for its bytes within the budget; return whether there is one."""
        room, best, gain = budget - self.bytes(), None, 0.0
        for name in self._problem._options:
            sizes, losses = self.costs(name)
            now = self.option[name]
            extra, saved = sizes - sizes[now], losses[now] - losses
            rates = np.where((extra <= room) & (saved > 0), saved / np.maximum(extra, 1.0), 0.0)
            if rates.max() > gain:
                best, gain = (name, int(rates.argmax())), float(rates.max())
        if best is None:
            return False
        before = self.option[best[0]]
        self._set(*best)
        if self.bytes() > budget:
            self._set(best[0], before)
            return False
        return True

    def allocation(self, bound: float) -> Allocation:
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
            min(bound, self.loss()),
        )
