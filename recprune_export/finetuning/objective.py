"""What a pruned program is tuned towards: the labels, and the answers of the dense program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from recprune_export.program.program import Program

Meaning = Literal["logit", "probability", "ranking", "value"]
TEACHER_SHARE = 0.9  # of the loss where there are labels; without labels it is all of it

aten = torch.ops.aten


@dataclass(frozen=True)
class Objective:
    """The loss of one response.

    `meanings[output]` says how an output is read; `label_of[output]` names the label it predicts, if any.
    """

    meanings: Mapping[str, Meaning]
    label_of: Mapping[str, str]

    def distillation(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the mean distance of two responses, as a scalar."""
        losses = [_DISTANCES[meaning](student[name], teacher[name]) for name, meaning in self.meanings.items()]
        return torch.stack(losses).mean()

    def supervised(self, student: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss against the labels, as a scalar."""
        losses = [
            _AGAINST_LABELS[self.meanings[name]](student[name], labels[label]) for name, label in self.label_of.items()
        ]
        return torch.stack(losses).mean()

    def loss(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None, labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Return labels and distillation in their shares; whichever is there where the other is not."""
        if not self.label_of or not labels:
            assert teacher is not None, "without labels there must be a teacher"
            return self.distillation(student, teacher)
        supervised = self.supervised(student, labels)
        if teacher is None:
            return supervised
        return (1 - TEACHER_SHARE) * supervised + TEACHER_SHARE * self.distillation(student, teacher)

    def probe(self, response: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a scalar whose gradient g with respect to any value has E[g gᵀ] the curvature of the loss there.

        It needs no labels: signs by chance times the root of the curvature at each output, or an item drawn from the
        model's own softmax (the Fisher information, by Monte Carlo: Martens 2020, "New insights", section 9.2).
        """
        return torch.stack([_PROBES[m](response[name], generator) for name, m in self.meanings.items()]).sum()


def make_objective(program: Program, labels: tuple[str, ...]) -> Objective:
    """Decide how the outputs of `program` are read.

    An output that a sigmoid ends is a probability. Where the data has labels, the output of a label's name, or else the
    output in its position, is its logit. A float output of shape (batch, several) beside a ranking target is a row of
    scores. Anything else is a value.
    """
    names = [o.name for o in program.signature.outputs]
    label_of = _match(names, labels)
    ends = _last_operators(program.module)
    meanings: dict[str, Meaning] = {}
    for output, end in zip(program.signature.outputs, ends, strict=True):
        if output.dtype not in ("float32", "float64"):
            continue
        if end is aten.sigmoid.default:
            meanings[output.name] = "probability"
        elif output.name in label_of:
            static = [size for size in output.shape if isinstance(size, int) and size != 1]
            meanings[output.name] = "ranking" if static else "logit"
        else:
            meanings[output.name] = "value"
    return Objective(meanings, {name: label for name, label in label_of.items() if name in meanings})


def _match(outputs: list[str], labels: tuple[str, ...]) -> dict[str, str]:
    by_name = {name: name for name in outputs if name in labels}
    if by_name or not labels:
        return by_name
    return dict(zip(outputs, labels, strict=False))


def _last_operators(module: fx.GraphModule) -> list[object]:
    passing = {aten.squeeze.dim, aten.squeeze.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints}
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    ends = []
    for node in output.args[0]:
        while node.target in passing:
            node = node.args[0]
        ends.append(node.target)
    return ends


def _probability_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy(_inside(student), teacher.clamp(0.0, 1.0))


def _logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def _ranking_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy of the two softmax distributions over items (Hinton et al. 2015, section 2), temperature 1."""
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()


def _value_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (
        F.mse_loss(student, teacher) / teacher.var().clamp_min(1e-12)
        if teacher.numel() > 1
        else F.mse_loss(student, teacher)
    )


def _inside(probability: Tensor) -> Tensor:
    return probability.clamp(1e-6, 1.0 - 1e-6)


def _probability_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy(_inside(student), label.reshape(student.shape).to(student.dtype))


def _logit_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, label.reshape(student.shape).to(student.dtype))


def _ranking_loss(student: Tensor, target: Tensor) -> Tensor:
    """Mean over the rows that have a target; 0 stands for none."""
    total = F.cross_entropy(student, target.long(), ignore_index=0, reduction="sum")
    return total / (target > 0).sum().clamp_min(1)


def _squared_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.mse_loss(student, label.reshape(student.shape).to(student.dtype))


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


def _logit_probe(logit: Tensor, generator: torch.Generator) -> Tensor:
    p = logit.detach().sigmoid()
    return (_signs(logit, generator) * (p * (1 - p)).sqrt() * logit).sum()


def _probability_probe(probability: Tensor, generator: torch.Generator) -> Tensor:
    p = _inside(probability.detach())
    return (_signs(probability, generator) * probability / (p * (1 - p)).sqrt()).sum()


def _ranking_probe(scores: Tensor, generator: torch.Generator) -> Tensor:
    likely = scores.detach().reshape(-1, scores.shape[-1]).softmax(-1)
    drawn = torch.multinomial(likely, 1, generator=generator)
    return scores.reshape(likely.shape).log_softmax(-1).gather(1, drawn).sum()


def _value_probe(value: Tensor, generator: torch.Generator) -> Tensor:
    spread = value.detach().std().clamp_min(1e-12) if value.numel() > 1 else 1.0
    return (_signs(value, generator) * value / spread).sum()


_PROBES: dict[Meaning, Callable[[Tensor, torch.Generator], Tensor]] = {
    "probability": _probability_probe,
    "logit": _logit_probe,
    "ranking": _ranking_probe,
    "value": _value_probe,
}
_DISTANCES: dict[Meaning, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": _probability_distance,
    "logit": _logit_distance,
    "ranking": _ranking_distance,
    "value": _value_distance,
}
_AGAINST_LABELS: dict[Meaning, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": _probability_loss,
    "logit": _logit_loss,
    "ranking": _ranking_loss,
    "value": _squared_loss,
}
