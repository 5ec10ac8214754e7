"""Group lasso: training of a dense program in which whole channels shrink to zero before pruning.

The loss has an additional term Σ λ·√n·‖w‖ over channels, where w are all weights of the slices of a channel and n is their number (Yuan
and Lin 2006, "Model selection and estimation in regression with grouped variables", equation 2.1; for networks: Wen et al. 2016,
"Learning Structured Sparsity in Deep Neural Networks", section 3). Each step of the optimizer is followed by the exact proximal operator
of this term, one group after the other: block soft thresholding, w·max(0, 1 - t/‖w‖) (Parikh and Boyd 2014, "Proximal Algorithms",
section 6.5.4). Thus channels become exactly zero.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from recprune_export.channels.groups import Group
from recprune_export.codec import FLATTENED, ToDictMixin
from recprune_export.data.batch import Batch
from recprune_export.finetuning._finetune import Schedule
from recprune_export.finetuning.divided_student import divided_student
from recprune_export.finetuning.task import Task
from recprune_export.program.program import Program
from recprune_export.training.loop import FitResult, fit


@dataclass(frozen=True)
class RegularizedProgram(ToDictMixin):
    """A program after regularized training, and the number of channels of each group whose weights are all zero."""

    ENCODED = ("strength", "zero_channels", "fitted")

    program: Program
    strength: float
    zero_channels: Mapping[str, int]
    fitted: FitResult = field(metadata=FLATTENED)


def regularize(program: Program, task: Task, strength: float, schedule: Schedule) -> RegularizedProgram:
    """Train a copy of `program` with a group lasso on labels and the outputs of `program`; one pass over the rows per epoch.

    `strength` is dimensionless: at 1, a channel without gradient of the loss shrinks, over the whole training, by the norm
    of the average channel of its group. The learning rate decays linearly to zero.
    """
    torch.manual_seed(schedule.seed)
    student, teacher = program.with_copied_parameters(), program.with_copied_graph()
    distillation = task.distillation_data(student, teacher)
    distillation.teacher.set_training(False)
    steps = schedule.epochs * distillation.steps_per_epoch
    lassos = [GroupLasso(student, group) for group in program.analysis.groups]
    optimizer = torch.optim.Adam(student.module.parameters(), lr=schedule.learning_rate)
    total_rate = schedule.learning_rate * (steps + 1) / 2  # the sum of the learning rates of all steps
    epochs_done = 0

    def after_step() -> None:
        share = optimizer.param_groups[0]["lr"] / total_rate
        for lasso in lassos:
            lasso.shrink(strength * share)

    def evaluate() -> float:
        """Return the validation metric after the last epoch, -inf before: only then is the shrinkage complete."""
        nonlocal epochs_done
        epochs_done += 1
        student.set_training(False)
        value = task.validate(student) if epochs_done == schedule.epochs else -math.inf
        student.set_training(True, dropout=False)
        return value

    def batches(epoch: int) -> Iterable[Batch]:
        return distillation.batches(schedule.seed + epoch)

    distillation.student.set_training(True, dropout=False)
    with divided_student((student, distillation.student), ()):
        fitted = fit(
            student.module,
            batches=batches,
            loss=partial(distillation.loss, task.objective),
            evaluate=evaluate,
            greater_is_better=task.greater_is_better,
            optimizers=[optimizer],
            schedulers=[torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)],
            epochs=schedule.epochs,
            patience=schedule.patience,
            steps_per_epoch=distillation.steps_per_epoch,
            rows_per_step=task.config.batch_size,
            after_step=after_step,
            description="Group lasso",
        )
    student.set_training(False)
    zero_channels = {
        group.name: int((lasso.norms() == 0).sum())
        for group, lasso in zip(program.analysis.groups, lassos, strict=True)
    }
    return RegularizedProgram(student, strength, zero_channels, fitted)


@dataclass(frozen=True)
class _Slices:
    """The slices of a group on one axis of a parameter: `channel[i]` has the index `index[i]`."""

    weight: torch.nn.Parameter
    axis: int
    channel: Tensor
    index: Tensor

    def squares(self, width: int) -> Tensor:
        """Return the sum of squared weights of each channel, [D] in float64."""
        other_axes = [axis for axis in range(self.weight.ndim) if axis != self.axis]
        squared = self.weight.square()
        sums = (squared.sum(other_axes) if other_axes else squared)[self.index].double()
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
    """The term of one group, with λ relative to the root mean square of the initial weights of the group.

    If slices of a channel intersect in one tensor, as in a square layer of a residual block, the intersection counts twice.
    """

    def __init__(self, program: Program, group: Group) -> None:
        parameters = program.parameters()
        self._width = group.width
        self._slices = [_slices(parameters[t], group, t, axis) for t, axis in group.axes() if t in parameters]
        self._sizes = torch.zeros(group.width, dtype=torch.float64)  # n
        for s in self._slices:
            sizes = torch.full((len(s.index),), s.weight.numel() / s.weight.shape[s.axis], dtype=torch.float64)
            self._sizes.index_add_(0, s.channel, sizes)
        self._rms = (self.norms().square().sum() / self._sizes.sum().clamp_min(1.0)).sqrt()

    def norms(self) -> Tensor:
        """Return ‖w‖ of each channel, [D] in float64."""
        with torch.no_grad():
            squares = torch.zeros(self._width, dtype=torch.float64)
            for s in self._slices:
                squares += s.squares(self._width)
            return squares.sqrt()

    def thresholds(self, amount: float) -> Tensor:
        """Return the amount by which the norm of each channel shrinks: amount · rms · √n, [D]."""
        return amount * self._rms * self._sizes.sqrt()

    def shrink(self, amount: float) -> None:
        """Apply the proximal operator in place."""
        with torch.no_grad():
            factors = (1.0 - self.thresholds(amount) / self.norms().clamp_min(1e-30)).clamp_min(0.0)
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
