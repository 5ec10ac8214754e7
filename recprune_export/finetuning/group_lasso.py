"""Group lasso: train a dense program so that whole channels shrink to zero before any is cut.

The loss has Σ λ·√n·‖w‖ added, over channels, with w all weights of a channel's slices and n how many they are (Yuan and
Lin 2006, "Model selection and estimation in regression with grouped variables", equation 2.1; for networks: Wen et al.
2016, "Learning Structured Sparsity in Deep Neural Networks", section 3). After each step of the optimizer follows the
exact proximal operator of this term, one group after the other: block soft thresholding, w·max(0, 1 - t/‖w‖) (Parikh and
Boyd 2014, "Proximal Algorithms", section 6.5.4). So channels are exactly zero, not nearly.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from recprune_export.channels.groups import Group
from recprune_export.codec import FLATTENED, ToDictMixin
from recprune_export.finetuning.finetune import Schedule
from recprune_export.finetuning.task import Batch, Task
from recprune_export.program.program import Program
from recprune_export.training.loop import FitResult, fit

TINY = 1e-30


@dataclass(frozen=True)
class RegularizedProgram(ToDictMixin):
    """A program after regularised training, and how many channels of each group it left without any weight."""

    ENCODED = ("strength", "zero_channels", "fitted")

    program: Program
    strength: float
    zero_channels: Mapping[str, int]
    fitted: FitResult = field(metadata=FLATTENED)


def regularize(program: Program, task: Task, strength: float, schedule: Schedule) -> RegularizedProgram:
    """Train a copy of `program` under a group lasso, towards labels and the answers of `program`; one pass per epoch.

    `strength` is free of units: at 1, a channel whose weights the loss does not hold up loses, over the whole training, as
    much of its norm as the average channel of its group has. The learning rate falls linearly to zero.
    """
    torch.manual_seed(schedule.seed)
    student, teacher = program.with_copied_parameters(), program.with_copied_graph()
    lessons = task.distillation_data(student, teacher)
    lessons.teacher.set_training(False)
    steps = schedule.epochs * lessons.steps_per_epoch
    lassos = [GroupLasso(student, group) for group in program.analysis.groups]
    optimizer = torch.optim.Adam(student.module.parameters(), lr=schedule.learning_rate)
    total_rate = schedule.learning_rate * (steps + 1) / 2  # of all steps
    epochs_done = 0

    def after_step() -> None:
        share = optimizer.param_groups[0]["lr"] / total_rate
        for lasso in lassos:
            lasso.shrink(strength * share)

    def evaluate() -> float:
        """Only the last epoch has had all of the shrinking, so no other may be kept."""
        nonlocal epochs_done
        epochs_done += 1
        student.set_training(False)
        value = task.validate(student) if epochs_done == schedule.epochs else -math.inf
        student.set_training(True, dropout=False)
        return value

    def batches(epoch: int) -> Iterable[Batch]:
        return lessons.batches(schedule.seed + epoch)

    lessons.student.set_training(True, dropout=False)
    fitted = fit(
        student.module,
        batches=batches,
        loss=partial(lessons.loss, task.objective),
        evaluate=evaluate,
        optimizers=[optimizer],
        schedulers=[torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)],
        epochs=schedule.epochs,
        patience=schedule.patience,
        steps_per_epoch=lessons.steps_per_epoch,
        after_step=after_step,
        description="Group lasso",
    )
    student.set_training(False)
    zero = {
        group.name: int((lasso.norms() == 0).sum())
        for group, lasso in zip(program.analysis.groups, lassos, strict=True)
    }
    return RegularizedProgram(student, strength, zero, fitted)


@dataclass(frozen=True)
class _Slices:
    """Where a group lies on one axis of a parameter: `channel[i]` has `index[i]`."""

    weight: torch.nn.Parameter
    axis: int
    channel: Tensor
    index: Tensor

    def squares(self, width: int) -> Tensor:
        """Return the sum of squared weights of each channel, [D] in float64."""
        others = [axis for axis in range(self.weight.ndim) if axis != self.axis]
        squared = self.weight.square()
        sums = (squared.sum(others) if others else squared)[self.index].double()
        return torch.zeros(width, dtype=torch.float64).index_add_(0, self.channel, sums)

    def scale(self, factors: Tensor) -> None:
        """Multiply the weights of each channel by its factor, in place."""
        logarithms = torch.zeros(self.weight.shape[self.axis], dtype=torch.float64)
        on_axis = logarithms.index_add_(
            0, self.index, factors.log()[self.channel]
        ).exp()  # an index may have two channels
        shape = [-1 if axis == self.axis else 1 for axis in range(self.weight.ndim)]
        self.weight.mul_(on_axis.to(self.weight.dtype).reshape(shape))


class GroupLasso:
    """The term of one group, its λ relative to the root mean square of the group's weights at the start.

    Where slices of a channel cross in one tensor, as in a square layer around a residual, the crossing counts twice.
    """

    def __init__(self, program: Program, group: Group) -> None:
        parameters = program.parameters()
        self._width = group.width
        self._slices = [_slices(parameters[t], group, t, axis) for t, axis in group.axes() if t in parameters]
        self._sizes = torch.zeros(group.width, dtype=torch.float64)  # n
        for s in self._slices:
            each = torch.full((len(s.index),), s.weight.numel() / s.weight.shape[s.axis], dtype=torch.float64)
            self._sizes.index_add_(0, s.channel, each)
        self._rms = (self.norms().square().sum() / self._sizes.sum().clamp_min(1.0)).sqrt()

    def norms(self) -> Tensor:
        """Return ‖w‖ of each channel, [D] in float64."""
        with torch.no_grad():
            squares = torch.zeros(self._width, dtype=torch.float64)
            for s in self._slices:
                squares += s.squares(self._width)
            return squares.sqrt()

    def thresholds(self, amount: float) -> Tensor:
        """Return by how much the norm of each channel falls: amount · rms · √n, [D]."""
        return amount * self._rms * self._sizes.sqrt()

    def shrink(self, amount: float) -> None:
        """Apply the proximal operator in place."""
        with torch.no_grad():
            factors = (1.0 - self.thresholds(amount) / self.norms().clamp_min(TINY)).clamp_min(0.0)
            for s in self._slices:
                s.scale(factors)


def _slices(weight: torch.nn.Parameter, group: Group, tensor: str, axis: int) -> _Slices:
    pairs = [
        (position, s.index)
        for position, channel in enumerate(group.channels)
        for s in channel.slices
        if (s.tensor, s.axis) == (tensor, axis)
    ]
    channel, index = torch.tensor(pairs, dtype=torch.int64).T
    return _Slices(weight, axis, channel, index)
