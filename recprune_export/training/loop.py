"""`fit`: the training loop of training and fine-tuning, which restores the weights of the best epoch."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from recprune_export.codec import OMIT_DEFAULT, DictMixin, JsonForm, finite_or_none, json_name
from recprune_export.distributed.gradients import sum_gradients
from recprune_export.errors import ModelError
from recprune_export.progress import progress_bar
from recprune_export.training.weight_snapshot import WeightSnapshot

BatchT = TypeVar("BatchT")
PLATEAU_PATIENCE = 3  # docs/decisions/start-of-sequence-models.md


class Optimizer(Protocol):
    """The methods of `torch.optim.Optimizer` that the loop calls."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""

    def step(self) -> Any:
        """Update all parameters that have a gradient."""


def _decode_metric(value: float | None) -> float:
    """The metric of a state that is not a candidate is null."""
    return -math.inf if value is None else float(value)


Metric = Annotated[float, JsonForm(finite_or_none, _decode_metric)]


@dataclass(frozen=True)
class Epoch:
    """The mean training loss of an epoch, and the validation metric after it."""

    loss: float
    metric: Metric


@dataclass(frozen=True)
class FitResult(DictMixin):
    """All epochs that ran, and the index of the best one, whose weights were restored.

    `initial_metric` is the validation metric before the first epoch, if it was computed; `best` is -1 if the initial weights were kept
    because no epoch was better. `greater_is_better`: whether larger values of the metric are better.

    >>> FitResult.from_dict({"epochs": [{"loss": 0.5, "metric": None}], "best": 0}).metric
    -inf
    """

    epochs: tuple[Epoch, ...]
    best: int
    initial_metric: Metric = field(default=-math.inf, metadata=json_name("untuned"))
    greater_is_better: bool = field(default=True, metadata=OMIT_DEFAULT)

    @property
    def metric(self) -> float:
        """The validation metric of the restored weights."""
        return self.initial_metric if self.best < 0 else self.epochs[self.best].metric

    def with_initial_metric(self, initial_metric: float) -> Self:
        """Return the result with the weights before the first epoch as another candidate.

        >>> FitResult((Epoch(0.5, 0.7),), 0).with_initial_metric(0.8).metric
        0.8
        """
        is_better = is_better_metric(initial_metric, self.metric, greater_is_better=self.greater_is_better)
        return replace(self, initial_metric=initial_metric, best=-1 if is_better else self.best)


def is_better_metric(new: float, old: float, *, greater_is_better: bool) -> bool:
    """Return whether a metric is better than another one; an infinite one is not a candidate.

    >>> is_better_metric(0.5, 0.6, greater_is_better=False), is_better_metric(0.5, -math.inf, greater_is_better=False)
    (True, True)
    """
    if not (math.isfinite(new) and math.isfinite(old)):
        return math.isfinite(new)
    return new > old if greater_is_better else new < old


def fit(
    module: nn.Module,
    *,
    batches: Callable[[int], Iterable[BatchT]],
    loss: Callable[[BatchT], Tensor],
    evaluate: Callable[[], float],
    optimizers: Sequence[Optimizer],
    epochs: int,
    patience: int,
    steps_per_epoch: int,
    description: str,
    rows_per_step: float | None = None,
    greater_is_better: bool = True,
    baseline: float = -math.inf,
    after_step: Callable[[], None] = lambda: None,
    schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] = (),
) -> FitResult:
    """Train for at most `epochs`; stop after `patience` epochs without a better metric; restore the best state of `module`.

    `batches(epoch)` returns the batches of an epoch (with several processes, the share of this process), `loss` a scalar (that of the
    whole batch, in each process), `evaluate` the validation metric (-inf: not a candidate). While no metric is better than `baseline`,
    that of outputs without a model, patience is `PLATEAU_PATIENCE` times as long: sequence models begin on a plateau. The `optimizers`
    together hold every trained parameter; `after_step` and the `schedulers` are called after each step. Memory in addition to the module
    and its optimizers: the gradients, and one `WeightSnapshot`.

    Raises `ModelError` if the loss is no longer finite.
    """
    history: list[Epoch] = []
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    best = -1
    snapshot: WeightSnapshot | None = None
    with progress_bar(description, epochs * (steps_per_epoch + 1), rows_per_step) as advance:
        for epoch in range(epochs):
            total, steps = 0.0, 0
            for batch in batches(epoch):
                value = loss(batch)
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)
                value.backward()
                sum_gradients(parameters)
                for parameter in parameters:
                    zero_nonfinite_gradient(parameter.grad)
                for optimizer in optimizers:
                    optimizer.step()
                after_step()
                for scheduler in schedulers:
                    scheduler.step()
                total, steps = total + value.item(), steps + 1
                if not math.isfinite(total):
                    raise ModelError(f"The loss of epoch {epoch + 1} is not finite; try a smaller --learning-rate.")
                advance("")
            history.append(Epoch(total / max(steps, 1), evaluate()))
            if best < 0 or is_better_metric(
                history[-1].metric, history[best].metric, greater_is_better=greater_is_better
            ):
                best = epoch
                if epoch + 1 < epochs:  # the last epoch leaves its weights in the module
                    snapshot = snapshot or WeightSnapshot(module)
                    snapshot.update(module)
            elif math.isfinite(history[-1].metric):
                has_learned = is_better_metric(history[best].metric, baseline, greater_is_better=greater_is_better)
                if epoch - best >= patience * (1 if has_learned else PLATEAU_PATIENCE):
                    break
            advance(f"{description}, epoch {epoch + 1}: {history[-1].metric:.4f}")
    if snapshot is not None and best < len(history) - 1:
        snapshot.restore(module)
    return FitResult(tuple(history), best, greater_is_better=greater_is_better)


def zero_nonfinite_gradient(gradient: Tensor | None) -> None:
    """Set non-finite values of a gradient to zero, in place: that of √x at 0 is infinite, and one such row would spoil a table."""
    if gradient is not None:
        (gradient._values() if gradient.is_sparse else gradient).nan_to_num_(0.0, 0.0, 0.0)
