"""The loss of fine-tuning, against the labels and the outputs of the dense program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from recprune_export.data.batch import ROW_WEIGHTS
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.errors import DataError, ModelError
from recprune_export.finetuning.finetuning_constants import MIN_RELATIVE_SPREAD, SHARPNESS, TEACHER_SHARE
from recprune_export.finetuning.label_outputs import count_per_row, describe_matches, match_labels
from recprune_export.program.canonical import tensor_at
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.program import Program
from recprune_export.program.signature import BATCH
from recprune_export.training.label_losses import RowLosses, mean_label_loss

OutputKind = Literal["logit", "classes", "probability", "class probabilities", "ranking", "scores", "value"]

aten = torch.ops.aten

_VIEW_OPERATORS = frozenset(
    {aten.squeeze.dim, aten.squeeze.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints}
)
_CLAMPS = frozenset({aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default})
_SCALING = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor})
_SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})
_LOOKUPS = frozenset({aten.embedding.default, aten.index.Tensor, aten.index_select.default})
_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default, aten.mm.default})


@dataclass(frozen=True)
class Objective:
    """The loss of one response.

    `output_kinds[output]` is the kind of an output; `output_labels[output]` is the label that it predicts, if any. `label_kinds` has the
    kind of each label, `variances` the variance of each numeric label, by which its squared error is divided.
    """

    output_kinds: Mapping[str, OutputKind]
    output_labels: Mapping[str, str]
    label_kinds: Mapping[str, LabelKind] = field(default_factory=dict)
    variances: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def distillation(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the mean distance of two responses, as a scalar."""
        losses = [_DISTANCES[kind](student[name], teacher[name]) for name, kind in self.output_kinds.items()]
        return torch.stack(losses).mean()

    def supervised(self, student: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over labels of the loss against each, as a scalar.

        The loss of a label is the mean over the rows where it is known, 0 without such rows, weighted if `labels` contains `ROW_WEIGHTS`.
        """
        losses = [
            self._label_loss(name, student[name], labels[label], labels.get(ROW_WEIGHTS))
            for name, label in self.output_labels.items()
        ]
        return torch.stack(losses).mean()

    def _label_loss(self, name: str, output: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
        kind = self.label_kinds.get(self.output_labels[name], LabelKind.BINARY)
        if kind is LabelKind.NEXT_ITEM:
            return _ranking_loss(output, label)
        if kind is LabelKind.NUMBER:
            variance = self.variances.get(self.output_labels[name], 1.0)
            return mean_label_loss(_squared_losses, output, label, weights) / variance
        return mean_label_loss(_ROW_LOSSES[self.output_kinds[name]], output, label, weights)

    def loss(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None, labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the weighted sum of supervised and distillation loss, or one of them if the other is not available."""
        if not self.output_labels or not labels:
            assert teacher is not None, "without labels, a teacher is required"
            return self.distillation(student, teacher)
        supervised = self.supervised(student, labels)
        if teacher is None:
            return supervised
        return (1 - TEACHER_SHARE) * supervised + TEACHER_SHARE * self.distillation(student, teacher)

    def probe(self, response: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a scalar whose gradient g with respect to any value satisfies: E[g gᵀ] is the curvature of the loss there.

        It needs no labels: random signs times the square root of the curvature at each output, or an item sampled from
        the softmax of the model (the Fisher information, by Monte Carlo: Martens 2020, "New insights", section 9.2).
        """
        probes = torch.stack([_PROBES[m](response[name], generator) for name, m in self.output_kinds.items()])
        return probes.sum() / len(probes) ** 0.5  # the loss is the mean of those of the outputs


@explain_failures("Reading the outputs of the model", ModelError, REPORT)
def make_objective(
    program: Program, labels: tuple[str, ...], label_values: Mapping[str, LabelValues] | None = None
) -> Objective:
    """Return the objective of a program, with the kinds of its outputs and labels.

    `label_values` describes the labels, which hold 0 and 1 by default. An output of a sigmoid is a probability, one of a
    softmax the probabilities of classes. The output with the name of a label, or else the first one that fits its values, is
    the logit of the label, the logits of its classes, or for numbers their value; if the label is the next item of a history,
    it is a row of scores trained with softmax, a ranking. A float output without a label holds scores of unknown
    scale if its last axis is that of items (as long as a table that is looked up, or the result of a product with a matrix
    that has more rows than columns) or of candidates (as long as the ids of an input). Any other output is a value.

    Raises `UsageError` if no output can be compared with a label, `DataError` if the values of a label do not fit its output,
    `ModelError` if no output is float32 or float64.
    """
    outputs = [o for o in program.signature.outputs if o.dtype in ("float32", "float64")]
    if not outputs:
        dtypes = ", ".join(f"'{o.name}' ({o.dtype})" for o in program.signature.outputs)
        raise ModelError(
            f"The model returns {dtypes}, but no float32 output for comparing models: let it return its scores as well."
        )
    values = {label: LabelValues() for label in labels} | dict(label_values or {})
    output_labels = match_labels(outputs, labels, values)
    ends = dict(zip((o.name for o in program.signature.outputs), _last_operators(program.module), strict=True))
    candidate_counts = _candidate_counts(program)
    output_kinds: dict[str, OutputKind] = {}
    label_kinds: dict[str, LabelKind] = {}
    for output in outputs:
        end, label = ends[output.name].target, output_labels.get(output.name)
        if label is not None:
            size = count_per_row(output)
            label_kinds[label] = LabelKind.NEXT_ITEM if label == NEXT_ITEM else values[label].kind(size)
            output_kinds[output.name] = _find_labeled_kind(
                output.name, size, end, label, label_kinds[label], values[label]
            )
        elif end is aten.sigmoid.default:
            output_kinds[output.name] = "probability"
        else:
            ranks = output.shape[-1:] != (BATCH,) and (
                output.shape[-1] in candidate_counts or _multiplies_tall_matrix(ends[output.name])
            )
            output_kinds[output.name] = "scores" if ranks else "value"
    numbers = [label for label, kind in label_kinds.items() if kind is LabelKind.NUMBER]
    return Objective(
        output_kinds,
        output_labels,
        label_kinds,
        {label: values[label].variance or 1.0 for label in numbers},
        (
            *describe_matches(outputs, output_labels),
            *(_describe_kind(n, label_kinds[n], values[n]) for n in labels if not values[n].is_binary),
        ),
    )


def _find_labeled_kind(
    name: str, size: int, end: object, label: str, kind: LabelKind, values: LabelValues
) -> OutputKind:
    """Return the kind of an output with a label. Raises `DataError` if the label does not fit the operator at its end."""
    if kind is LabelKind.NEXT_ITEM:
        return "probability" if end is aten.sigmoid.default else "ranking"
    if end is aten.sigmoid.default:
        if size > 1 or (kind is LabelKind.NUMBER and not 0.0 <= values.low <= values.high <= 1.0):
            returns = "a probability" if size == 1 else f"{size} separate probabilities"
            remedy = "the number without the sigmoid, or write the label as 0 and 1" if size == 1 else "logits instead"
            raise DataError(
                f"The label '{label}' contains {values.describe()}, but the output '{name}' is {returns}, from a sigmoid: let the model "
                f"return {remedy}."
            )
        return "probability"
    if size > 1:
        return "class probabilities" if end in _SOFTMAX else "classes"
    return "value" if kind is LabelKind.NUMBER else "logit"


def _describe_kind(label: str, kind: LabelKind, values: LabelValues) -> str:
    """Return a note on a label that is not 0 and 1."""
    if kind is LabelKind.CLASSES:
        return f"The label '{label}' contains {values.describe()}, read as classes: the loss is the cross entropy of a softmax."
    hint = " If -1 stands for a missing label, give --missing-label -1." if values.low == -1.0 and values.whole else ""
    return (
        f"The label '{label}' contains {values.describe()} and the model returns one number for each row: the loss is the squared "
        f"error.{hint}"
    )


def _candidate_counts(program: Program) -> frozenset[int]:
    """Return the numbers of rows of the tables, and the numbers of ids in the inputs for each row of a request."""
    tables = (node.args[0] for node in program.module.graph.nodes if node.target in _LOOKUPS)
    rows = (len(tensor_at(program.module, str(table.target))) for table in tables if table.op == "get_attr")
    ids = (i.shape[-1] for i in program.signature.inputs if i.ids and len(i.shape) > 1)
    return frozenset(size for size in (*rows, *ids) if isinstance(size, int) and size > 1)


def _last_operators(module: fx.GraphModule) -> list[fx.Node]:
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    return [_skip_operators(node, _VIEW_OPERATORS | _CLAMPS) for node in output.args[0]]


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


def _log_probabilities(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(1e-6).log()


def _class_probability_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return _ranking_distance(_log_probabilities(student), _log_probabilities(teacher))


def _probability_losses(output: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy(_clamp(output.reshape(-1)), label.to(output.dtype), reduction="none")


def _logit_losses(output: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.reshape(-1), label.to(output.dtype), reduction="none")


def _class_losses(output: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(output.reshape(len(label), -1), label.long(), reduction="none")


def _class_probability_losses(output: Tensor, label: Tensor) -> Tensor:
    return _class_losses(_log_probabilities(output), label)


def _squared_losses(output: Tensor, label: Tensor) -> Tensor:
    return (output.reshape(-1) - label.to(output.dtype)).square()


def _ranking_loss(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy over the rows whose target is not 0."""
    total = F.cross_entropy(student, target.long(), ignore_index=0, reduction="sum")
    return total / (target > 0).sum().clamp_min(1)


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


def _class_probability_probe(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    return _ranking_probe(_log_probabilities(probabilities), generator)


def _score_probe(scores: Tensor, generator: torch.Generator) -> Tensor:
    known = scores.detach().isfinite()
    scores = scores.masked_fill(~known, 0.0)
    mask = _additive_mask(known, scores.dtype)
    ranking = _ranking_probe(scores / _temperature(scores.detach()) + mask, generator)
    return ranking + _value_probe(scores, generator)


def _value_probe(value: Tensor, generator: torch.Generator) -> Tensor:
    value = value.masked_fill(~value.detach().isfinite(), 0.0)
    spread = value.detach().std().clamp_min(1e-12) if value.numel() > 1 else 1.0
    per_row = value.numel() / max(len(value), 1) if value.ndim else 1.0  # the distance is a mean over them
    return (_random_signs(value, generator) * value / spread).sum() / max(per_row, 1.0) ** 0.5


_PROBES: dict[OutputKind, Callable[[Tensor, torch.Generator], Tensor]] = {
    "probability": _probability_probe,
    "logit": _logit_probe,
    "classes": _ranking_probe,
    "class probabilities": _class_probability_probe,
    "ranking": _ranking_probe,
    "scores": _score_probe,
    "value": _value_probe,
}
_DISTANCES: dict[OutputKind, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": _probability_distance,
    "logit": _logit_distance,
    "classes": _ranking_distance,
    "class probabilities": _class_probability_distance,
    "ranking": _ranking_distance,
    "scores": _score_distance,
    "value": _value_distance,
}
_ROW_LOSSES: dict[OutputKind, RowLosses] = {
    "probability": _probability_losses,
    "logit": _logit_losses,
    "classes": _class_losses,
    "class probabilities": _class_probability_losses,
}
