"""The loss of fine-tuning, against the labels and the answers of the dense program."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.errors import ModelError, UsageError
from recprune_export.finetuning.finetuning_constants import MIN_RELATIVE_SPREAD, SHARPNESS, TEACHER_SHARE
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program
from recprune_export.program.signature import BATCH, Output

OutputKind = Literal["logit", "classes", "probability", "ranking", "scores", "value"]

aten = torch.ops.aten

_VIEW_OPERATORS = frozenset(
    {aten.squeeze.dim, aten.squeeze.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints}
)
_SCALING = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor})
_LOOKUPS = frozenset({aten.embedding.default, aten.index.Tensor, aten.index_select.default})
_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default, aten.mm.default})


@dataclass(frozen=True)
class Objective:
    """The loss of one response.

    `output_kinds[output]` is the kind of an output; `output_labels[output]` names the label that it predicts, if any.
    """

    output_kinds: Mapping[str, OutputKind]
    output_labels: Mapping[str, str]

    def distillation(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the mean distance of two responses, as a scalar."""
        losses = [_DISTANCES[kind](student[name], teacher[name]) for name, kind in self.output_kinds.items()]
        return torch.stack(losses).mean()

    def supervised(self, student: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss against the labels, as a scalar."""
        losses = [
            _LABEL_LOSSES[self.output_kinds[name]](student[name], labels[label])
            for name, label in self.output_labels.items()
        ]
        return torch.stack(losses).mean()

    def loss(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None, labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the weighted sum of supervised and distillation loss, or one of them if the other is not available."""
        if not self.output_labels or not labels:
            assert teacher is not None, "without labels there must be a teacher"
            return self.distillation(student, teacher)
        supervised = self.supervised(student, labels)
        if teacher is None:
            return supervised
        return (1 - TEACHER_SHARE) * supervised + TEACHER_SHARE * self.distillation(student, teacher)

    def probe(self, response: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a scalar whose gradient g with respect to any value has E[g gᵀ] the curvature of the loss there.

        It needs no labels: random signs times the square root of the curvature at each output, or an item sampled from
        the softmax of the model (the Fisher information, by Monte Carlo: Martens 2020, "New insights", section 9.2).
        """
        return torch.stack([_PROBES[m](response[name], generator) for name, m in self.output_kinds.items()]).sum()


def make_objective(program: Program, labels: tuple[str, ...]) -> Objective:
    """Return the objective of a program, with the kinds of its outputs.

    An output of a sigmoid is a probability. The output with the name of a label, or else the output at its position among
    those of matching shape, is the logit of the label, or the logits of no and yes; if the label is the next item of a
    history, it is a row of scores trained with softmax, a ranking. A float output without a label holds scores of unknown
    scale if its last axis is that of items (as long as a table that is looked up, or the result of a product with a matrix
    that has more rows than columns) or of candidates (as long as the ids of an input). Any other output is a value.

    Raises `UsageError` if no output can be compared with a label, `ModelError` if no output is float32 or float64.
    """
    outputs = [o for o in program.signature.outputs if o.dtype in ("float32", "float64")]
    if not outputs:
        dtypes = ", ".join(f"'{o.name}' ({o.dtype})" for o in program.signature.outputs)
        raise ModelError(
            f"The model returns {dtypes}, but no float32 output by which two answers can be compared: let it return its scores "
            "as well, or convert a half-precision model to float32 by model.float()."
        )
    output_labels = _match_labels(outputs, labels)
    ends = dict(zip((o.name for o in program.signature.outputs), _last_operators(program.module), strict=True))
    candidate_counts = _candidate_counts(program)
    output_kinds: dict[str, OutputKind] = {}
    for output in outputs:
        if ends[output.name].target is aten.sigmoid.default:
            output_kinds[output.name] = "probability"
        elif output.name not in output_labels:
            ranks = output.shape[-1:] != (BATCH,) and (
                output.shape[-1] in candidate_counts or _multiplies_tall_matrix(ends[output.name])
            )
            output_kinds[output.name] = "scores" if ranks else "value"
        elif output_labels[output.name] == NEXT_ITEM:
            output_kinds[output.name] = "ranking"
        else:
            output_kinds[output.name] = "logit" if _per_row(output) == 1 else "classes"
    return Objective(output_kinds, output_labels)


def _match_labels(outputs: Sequence[Output], labels: tuple[str, ...]) -> dict[str, str]:
    """Return the label of each output that has one. The next item is compared with a row of any length."""
    candidates = [o.name for o in outputs if labels == (NEXT_ITEM,) or _per_row(o) in (1, 2)]
    matched = {name: name for name in candidates if name in labels} or dict(zip(candidates, labels, strict=False))
    if labels and not matched:
        shapes = ", ".join(f"'{o.name}' {list(o.shape)}" for o in outputs)
        raise UsageError(
            f"The label '{labels[0]}' is one number for each row, but the model returns {shapes}: leave out --label and --data, "
            "or let the model return one number for each row."
        )
    return matched


def _per_row(output: Output) -> int:
    """Return the size of an output for each row of a request; 0 if it is not known."""
    sizes = [size for size in output.shape if size != BATCH]
    return math.prod(int(size) for size in sizes) if all(isinstance(size, int) for size in sizes) else 0


def _candidate_counts(program: Program) -> frozenset[int]:
    """Return the numbers of rows of the tables, and of the ids that the inputs hold for each row of a request."""
    tables = (node.args[0] for node in program.module.graph.nodes if node.target in _LOOKUPS)
    rows = (len(tensor_at(program.module, str(table.target))) for table in tables if table.op == "get_attr")
    ids = (i.shape[-1] for i in program.signature.inputs if i.ids and len(i.shape) > 1)
    return frozenset(size for size in (*rows, *ids) if isinstance(size, int) and size > 1)


def _last_operators(module: fx.GraphModule) -> list[fx.Node]:
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    return [_skip_operators(node, _VIEW_OPERATORS) for node in output.args[0]]


def _skip_operators(node: fx.Node, operators: frozenset[object]) -> fx.Node:
    while node.target in operators:
        node = node.all_input_nodes[0]
    return node


def _multiplies_tall_matrix(node: fx.Node) -> bool:
    """Return whether the value is a product with a tall matrix, the vectors of many items."""
    product = _skip_operators(node, _VIEW_OPERATORS | _SCALING)
    if product.target not in _PRODUCTS:
        return False
    width, input_width = (n.meta["val"].shape[-1] for n in (product, product.all_input_nodes[0]))
    return bool(width > input_width)


def _probability_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy(_clamp(student), teacher.clamp(0.0, 1.0))


def _logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def _ranking_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cross entropy of the two softmax distributions over items (Hinton et al. 2015, section 2), temperature 1.

    Items that the model masks by an infinite score have probability 0.
    """
    probabilities = teacher.softmax(-1)
    return -(probabilities * student.log_softmax(-1).masked_fill(probabilities == 0.0, 0.0)).sum(-1).mean()


def _score_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance of the values, plus the cross entropy of the rankings of the scores of a request.

    Scores that were not trained with softmax have any scale (cosines, distances), so the temperature is a multiple of their
    standard deviation over the candidates (Sun et al. 2024, "Logit Standardization in Knowledge Distillation", section 4).
    Candidates that the model masks by an infinite score are excluded.
    """
    known = teacher.isfinite()
    student, teacher = student.masked_fill(~known, 0.0), teacher.masked_fill(~known, 0.0)
    mask = _additive_mask(known, teacher.dtype)
    temperature = _temperature(teacher)
    ranking = _ranking_distance(student / temperature + mask, teacher / temperature + mask)
    return _value_distance(student, teacher) + ranking


def _additive_mask(known: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the summand of scores with which softmax excludes the positions that are not `known`."""
    return torch.where(known, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


def _temperature(scores: Tensor) -> Tensor:
    spread = scores.std(-1, keepdim=True)
    usual = spread.square().mean().sqrt()
    return spread.clamp_min(max(MIN_RELATIVE_SPREAD * float(usual), 1e-12)) / SHARPNESS


def _value_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared error divided by the variance, without infinite values of the teacher."""
    known = teacher.isfinite()
    student, teacher = student.masked_fill(~known, 0.0), teacher.masked_fill(~known, 0.0)
    return (
        F.mse_loss(student, teacher) / teacher.var().clamp_min(1e-12)
        if teacher.numel() > 1
        else F.mse_loss(student, teacher)
    )


def _clamp(probability: Tensor) -> Tensor:
    return probability.clamp(1e-6, 1.0 - 1e-6)


def _probability_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy(_clamp(student), label.reshape(student.shape).to(student.dtype))


def _logit_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, label.reshape(student.shape).to(student.dtype))


def _ranking_loss(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy over the rows whose target is not 0."""
    total = F.cross_entropy(student, target.long(), ignore_index=0, reduction="sum")
    return total / (target > 0).sum().clamp_min(1)


def _class_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(student.reshape(-1, 2), label.reshape(-1).long())


def _squared_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.mse_loss(student, label.reshape(student.shape).to(student.dtype))


def _random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


def _logit_probe(logit: Tensor, generator: torch.Generator) -> Tensor:
    p = logit.detach().sigmoid()
    return (_random_signs(logit, generator) * (p * (1 - p)).sqrt() * logit).sum()


def _probability_probe(probability: Tensor, generator: torch.Generator) -> Tensor:
    p = _clamp(probability.detach())
    return (_random_signs(probability, generator) * probability / (p * (1 - p)).sqrt()).sum()


def _ranking_probe(scores: Tensor, generator: torch.Generator) -> Tensor:
    probabilities = scores.detach().reshape(-1, scores.shape[-1]).softmax(-1)
    sampled = torch.multinomial(probabilities, 1, generator=generator)
    return scores.reshape(probabilities.shape).log_softmax(-1).gather(1, sampled).sum()


def _score_probe(scores: Tensor, generator: torch.Generator) -> Tensor:
    known = scores.detach().isfinite()
    scores = scores.masked_fill(~known, 0.0)
    mask = _additive_mask(known, scores.dtype)
    ranking = _ranking_probe(scores / _temperature(scores.detach()) + mask, generator)
    return ranking + _value_probe(scores, generator)


def _value_probe(value: Tensor, generator: torch.Generator) -> Tensor:
    value = value.masked_fill(~value.detach().isfinite(), 0.0)
    spread = value.detach().std().clamp_min(1e-12) if value.numel() > 1 else 1.0
    return (_random_signs(value, generator) * value / spread).sum()


_PROBES: dict[OutputKind, Callable[[Tensor, torch.Generator], Tensor]] = {
    "probability": _probability_probe,
    "logit": _logit_probe,
    "classes": _ranking_probe,
    "ranking": _ranking_probe,
    "scores": _score_probe,
    "value": _value_probe,
}
_DISTANCES: dict[OutputKind, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": _probability_distance,
    "logit": _logit_distance,
    "classes": _ranking_distance,
    "ranking": _ranking_distance,
    "scores": _score_distance,
    "value": _value_distance,
}
_LABEL_LOSSES: dict[OutputKind, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": _probability_loss,
    "logit": _logit_loss,
    "classes": _class_loss,
    "ranking": _ranking_loss,
    "scores": _squared_loss,
    "value": _squared_loss,
}
