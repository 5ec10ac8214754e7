"""`DeferredAdam`: Adam whose steps on long embedding tables cost the rows of a batch instead of the whole table.

The gradient of a table that is only looked up is zero in all rows but those of the batch. Adam moves the other rows too, by
their decaying first moment. These steps are deferred: all of them are applied to a row when it is looked up again, as in lazy
regularization (Carpenter 2008, "Lazy Sparse Stochastic Gradient Descent for Regularized Multinomial Logistic Regression"). So the weights
that a forward pass reads are those of Adam, unlike those of `torch.optim.SparseAdam`, which skips these steps.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from recprune_export.distributed.ranks import is_divided
from recprune_export.distributed.sharded_embedding import ShardedEmbedding

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the defaults of torch.optim.Adam
_CHUNK = 1 << 15  # rows that catch up together, which bounds the memory of temporary tensors


class DeferredAdam:
    """Adam with a constant learning rate for `tables`, which are read only by lookups, and for `others`, which it updates as a whole.

    Inside the block `deferred()` the gradients of the tables are sparse in their rows, and a row catches up before each
    lookup. `catch_up()` brings every row up to date: call it before the weights are read in any other way.

    With U different rows of D dimensions in a batch, a step and its lookup take O(U·(log U + D)) time; `catch_up` takes
    O(rows·D). The two moments have the size of the table, but memory is touched only in rows that were looked up.
    """

    # No subclass of torch.optim.Optimizer: that imports torch._dynamo, which takes longer than training a small model.

    def __init__(
        self, tables: Iterable[nn.Embedding | ShardedEmbedding], others: Iterable[nn.Parameter], lr: float
    ) -> None:
        self._tables = {table.weight: table for table in tables}
        self._others = _WholeAdam(others, lr)
        self._rate, self._steps = lr, 0
        self._moves = _DeferredMoves()
        self._rows = {weight: _RowMoments.zeros(weight) for weight in self._tables}
        self.param_groups: list[dict[str, Any]] = [{"params": [*self._tables, *self._others.parameters]}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        assert set_to_none
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Make gradients sparse and let rows catch up before lookups inside the block; all are up to date after it."""
        hooks = []
        for weight, table in self._tables.items():
            if isinstance(table, ShardedEmbedding):  # its rows are also read for other processes
                table.before_read = partial(self._before_read, weight)
                continue
            table.sparse = True
            hooks.append(table.register_forward_pre_hook(partial(self._before_lookup, weight)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for table in self._tables.values():
                if isinstance(table, ShardedEmbedding):
                    table.before_read = None
                else:
                    table.sparse = False
            self.catch_up()

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring all rows up to date."""
        for weight, state in self._rows.items():
            stale = ((state.last_step > 0) & (state.last_step < self._steps)).nonzero().flatten()
            for rows in stale.split(_CHUNK):
                self._catch_up(weight, rows)

    @torch.no_grad()
    def step(self) -> None:
        """Update the rows and the other parameters that have a gradient."""
        self._others.step()
        gradients = {w: _sum_by_row(w.grad) for w in self._rows if w.grad is not None}
        if is_divided():  # rows that only other processes have looked up
            for weight, (rows, _) in gradients.items():
                self._before_read(weight, rows)
        self._steps += 1
        for weight, (rows, gradient) in gradients.items():
            self._update(weight, self._rows[weight], rows, gradient)

    def _before_lookup(self, weight: Tensor, table: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._before_read(weight, arguments[0].detach().flatten())

    def _before_read(self, weight: Tensor, rows: Tensor) -> None:
        last_step = self._rows[weight].last_step[rows]
        stale = rows[(last_step > 0) & (last_step < self._steps)]  # duplicates are updated to the same values
        if len(stale):
            with torch.no_grad():
                self._catch_up(weight, stale)

    def _catch_up(self, weight: Tensor, rows: Tensor) -> None:
        """Apply the deferred steps of `rows`, [U], which may contain duplicates."""
        state = self._rows[weight]
        last_step = state.last_step[rows]
        moved, epsilon = self._moves.sums(last_step, self._steps)
        gap = (self._steps - last_step).to(weight.dtype)[:, None]
        first, second = state.moments[rows].unbind(1)  # [U, D]
        move = (first * moved.to(weight.dtype)[:, None]).div_(second.sqrt().add_(epsilon.to(weight.dtype)[:, None]))
        weight[rows] = weight[rows].sub_(move, alpha=self._rate)
        first_decay = torch.where(gap < _DeferredMoves.LONGEST, BETA1**gap, 0.0)  # no subnormal numbers
        state.moments[rows] = torch.stack([first * first_decay, second * BETA2**gap], 1)
        state.last_step[rows] = self._steps

    def _update(self, weight: Tensor, state: "_RowMoments", rows: Tensor, gradient: Tensor) -> None:
        """Apply a step of Adam to distinct `rows`, [U], with their gradient, [U, D] (Kingma and Ba 2015, algorithm 1)."""
        moments = state.moments[rows]
        first, second = moments.unbind(1)
        first.lerp_(gradient, 1.0 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2)
        root = second.sqrt().div_((1.0 - BETA2**self._steps) ** 0.5).add_(EPSILON)
        weight[rows] = weight[rows].addcdiv_(first, root, value=-self._rate / (1.0 - BETA1**self._steps))
        state.moments[rows] = moments
        state.last_step[rows] = self._steps


class _WholeAdam:
    """Adam by PyTorch's fused kernel, one pass over each parameter."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        self.parameters, self._rate = list(parameters), lr
        self._first, self._second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self._steps = [torch.zeros(()) for _ in self.parameters]

    def step(self) -> None:
        """Update the parameters that have a gradient."""
        groups = zip(self.parameters, self._first, self._second, self._steps, strict=True)
        used = [(p, p.grad, first, second, steps) for p, first, second, steps in groups if p.grad is not None]
        if used:
            parameters, gradients, firsts, seconds, steps = (list(tensors) for tensors in zip(*used, strict=True))
            adam(
                parameters, gradients, firsts, seconds, max_exp_avg_sqs=[], state_steps=steps, fused=True, amsgrad=False,
                beta1=BETA1, beta2=BETA2, lr=self._rate, weight_decay=0.0, eps=EPSILON, maximize=False,
            )  # fmt: skip


@dataclass(frozen=True)
class _RowMoments:
    """The two moments of each row, [rows, 2, D], and the optimizer step of their last update, [rows], 0 before any."""

    moments: Tensor
    last_step: Tensor

    @classmethod
    def zeros(cls, weight: Tensor) -> "_RowMoments":
        rows, width = weight.shape
        moments = np.zeros((rows, 2, width), weight.detach()[:0].numpy().dtype)  # torch.zeros would write to all of it
        return cls(torch.from_numpy(moments), torch.zeros(rows, dtype=torch.int64))


def _sum_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows of a sparse gradient, [U], and its sum over each of them, [U, D]."""
    rows, position = torch.unique(gradient._indices()[0], return_inverse=True)
    values = gradient._values()
    return rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, position, values)


class _DeferredMoves:
    """Sums over the steps of Adam in which the gradient of a row is zero.

    With moments m and v after step s, step s + k moves a weight by -lr·a(k)·m / (√v + ε·b(k)), where
    a(k) = (β1/√β2)^k·√(1-β2^(s+k)) / (1-β1^(s+k)) and b(k) = √(1-β2^(s+k)) / √β2^k. The sum over k is computed with the mean of b,
    weighted by a, which is exact to first order in ε. Σa and Σab over k = 1 ... n are differences of infinite sums, W(s) -
    (β1/√β2)^n·W(s+n), which are tabulated by step.
    """

    LONGEST = 400  # steps, after which the first moment has decayed to 1e-18 of itself

    def __init__(self) -> None:
        self._endless = torch.empty(0, 2, dtype=torch.float64)  # [steps, 2]: Σa and Σab from each step on

    def sums(self, first: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """Return Σa and ε·Σab / Σa of the steps `first` + 1 to `last`, both [U], for `first` [U] less than `last`."""
        if len(self._endless) <= last:
            self._endless = self._tabulate(2 * last + 1)
        decay = torch.tensor([BETA1 / BETA2**0.5, BETA1 / BETA2], dtype=torch.float64) ** (last - first)[:, None]
        moved, weighted = (self._endless[first] - decay * self._endless[last]).unbind(1)
        return moved, EPSILON * weighted / moved

    @classmethod
    def _tabulate(cls, count: int) -> Tensor:
        """Return the infinite sums Σa and Σab from each of `count` steps on, [count, 2]."""
        step = np.arange(1, count + cls.LONGEST)
        bias1, bias2 = 1.0 - BETA1**step, 1.0 - BETA2**step
        k = np.arange(1, cls.LONGEST + 1)
        moved = np.convolve(np.sqrt(bias2) / bias1, (BETA1 / BETA2**0.5) ** k[::-1], "valid")
        weighted = np.convolve(bias2 / bias1, (BETA1 / BETA2) ** k[::-1], "valid")
        return torch.from_numpy(np.stack([moved, weighted], 1))
