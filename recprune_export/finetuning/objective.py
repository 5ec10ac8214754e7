"""What a pruned program is tuned towards: the labels, and the answers of the dense program."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.errors import ModelError, UsageError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program
from recprune_export.program.signature import BATCH, Output

OutputKind = Literal["logit", "classes", "probability", "ranking", "scores", "value"]
TEACHER_SHARE = 0.9  # of the loss where there are labels; without labels it is all of it
FLATTEST = (
    1e-2  # of the usual standard deviation: scores that are nearly alike, or are all zero, have no order to learn
)
SHARPNESS = 2.0  # of the ranking of scores whose scale is unknown: standard deviations to a temperature of 1

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

    `meanings[output]` says how an output is read; `label_of[output]` names the label it predicts, if any.
    """

    output_kinds: Mapping[str, OutputKind]
    output_labels: Mapping[str, str]

    def distillation(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the mean distance of two responses, as a scalar."""
        losses = [_DISTANCES[meaning](student[name], teacher[name]) for name, meaning in self.output_kinds.items()]
        return torch.stack(losses).mean()

    def supervised(self, student: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss against the labels, as a scalar."""
        losses = [
            _AGAINST_LABELS[self.output_kinds[name]](student[name], labels[label])
            for name, label in self.output_labels.items()
        ]
        return torch.stack(losses).mean()

    def loss(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None, labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Return labels and distillation in their shares; whichever is there where the other is not."""
        if not self.output_labels or not labels:
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
        return torch.stack([_PROBES[m](response[name], generator) for name, m in self.output_kinds.items()]).sum()


def make_objective(program: Program, labels: tuple[str, ...]) -> Objective:
    """Decide how the outputs of `program` are read.

    An output that a sigmoid ends is a probability. Where the data has labels, the output of a label's name, or else the
    output in its position among those that fit, is its logit, or the logits of no and yes; beside the next item of a
    history it is a row of scores that a softmax trained, a ranking. A float output without a label holds scores of unknown
    scale where its last axis is that of items (as long as a table that is looked up, or made by a product with a matrix
    that has more rows than columns) or of candidates (as long as the ids of an input). Anything else is a value.

    Raises `UsageError` where no output can be compared with a label, `ModelError` where none holds numbers that tell how
    near an answer is.
    """
    outputs = [o for o in program.signature.outputs if o.dtype in ("float32", "float64")]
    if not outputs:
        told = ", ".join(f"'{o.name}' ({o.dtype})" for o in program.signature.outputs)
        raise ModelError(
            f"The model returns {told}, and nothing in float32 by which two answers can be compared: let it return its scores "
            "as well, or turn a model of half precision into one of float32 by model.float()."
        )
    label_of = _match(outputs, labels)
    ends = dict(zip((o.name for o in program.signature.outputs), _last_operators(program.module), strict=True))
    lengths = _numbers_of_candidates(program)
    meanings: dict[str, OutputKind] = {}
    for output in outputs:
        if ends[output.name].target is aten.sigmoid.default:
            meanings[output.name] = "probability"
        elif output.name not in label_of:
            ranks = output.shape[-1:] != (BATCH,) and (
                output.shape[-1] in lengths or _multiplies_tall_matrix(ends[output.name])
            )
            meanings[output.name] = "scores" if ranks else "value"
        elif label_of[output.name] == NEXT_ITEM:
            meanings[output.name] = "ranking"
        else:
            meanings[output.name] = "logit" if _per_row(output) == 1 else "classes"
    return Objective(meanings, label_of)


def _match(outputs: Sequence[Output], labels: tuple[str, ...]) -> dict[str, str]:
    """Return the label of each output that has one. The next item is compared with a row of any length."""
    fit = [o.name for o in outputs if labels == (NEXT_ITEM,) or _per_row(o) in (1, 2)]
    matched = {name: name for name in fit if name in labels} or dict(zip(fit, labels, strict=False))
    if labels and not matched:
        shapes = ", ".join(f"'{o.name}' {list(o.shape)}" for o in outputs)
        raise UsageError(
            f"The label '{labels[0]}' is one number for each row, but the model returns {shapes}: leave out --label and --data, "
            "or let the model return one number for each row."
        )
    return matched


def _per_row(output: Output) -> int:
    """How many numbers the output has for each row of a request; 0 where that is not known."""
    sizes = [size for size in output.shape if size != BATCH]
    return math.prod(int(size) for size in sizes) if all(isinstance(size, int) for size in sizes) else 0


def _numbers_of_candidates(program: Program) -> frozenset[int]:
    """Return the numbers of rows of the tables, and of the ids that the inputs hold for each row of a request."""
    tables = (node.args[0] for node in program.module.graph.nodes if node.target in _LOOKUPS)
    rows = (len(tensor_at(program.module, str(table.target))) for table in tables if table.op == "get_attr")
    ids = (i.shape[-1] for i in program.signature.inputs if i.ids and len(i.shape) > 1)
    return frozenset(size for size in (*rows, *ids) if isinstance(size, int) and size > 1)


def _last_operators(module: fx.GraphModule) -> list[fx.Node]:
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    return [_skip_operators(node, _VIEW_OPERATORS) for node in output.args[0]]


def _skip_operators(node: fx.Node, passing: frozenset[object]) -> fx.Node:
    while node.target in passing:
        node = node.all_input_nodes[0]
    return node


def _multiplies_tall_matrix(node: fx.Node) -> bool:
    """Whether a product with a tall matrix made the value: a vector meets the vectors of many items."""
    product = _skip_operators(node, _VIEW_OPERATORS | _SCALING)
    if product.target not in _PRODUCTS:
        return False
    made, vector = (n.meta["val"].shape[-1] for n in (product, product.all_input_nodes[0]))
    return bool(made > vector)


def _probability_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy(_inside(student), teacher.clamp(0.0, 1.0))


def _logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def _ranking_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy of the two softmax distributions over items (Hinton et al. 2015, section 2), temperature 1.

    Items that the model masks by an infinite score have no share.
    """
    likely = teacher.softmax(-1)
    return -(likely * student.log_softmax(-1).masked_fill(likely == 0.0, 0.0)).sum(-1).mean()


def _score_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The distance of the values, plus the cross entropy of the orders that the scores of a request stand for.

    Scores that no softmax trained have any scale (cosines, distances), so the temperature is a multiple of their
    standard deviation over the candidates (Sun et al. 2024, "Logit Standardization in Knowledge Distillation", section 4).
    Candidates that the model masks by an infinite score are left out.
    """
    known = teacher.isfinite()
    student, teacher = student.masked_fill(~known, 0.0), teacher.masked_fill(~known, 0.0)
    masked = _masked(known, teacher.dtype)
    temperature = _temperature(teacher)
    ranking = _ranking_distance(student / temperature + masked, teacher / temperature + masked)
    return _value_distance(student, teacher) + ranking


def _masked(known: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that softmax leaves out those which are not known."""
    return torch.where(known, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


def _temperature(scores: Tensor) -> Tensor:
    spread = scores.std(-1, keepdim=True)
    usual = spread.square().mean().sqrt()
    return spread.clamp_min(max(FLATTEST * float(usual), 1e-12)) / SHARPNESS


def _value_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared error in units of the variance; what the teacher gives as infinite is left out."""
    known = teacher.isfinite()
    student, teacher = student.masked_fill(~known, 0.0), teacher.masked_fill(~known, 0.0)
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


def _class_loss(student: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(student.reshape(-1, 2), label.reshape(-1).long())


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


def _score_probe(scores: Tensor, generator: torch.Generator) -> Tensor:
    known = scores.detach().isfinite()
    scores = scores.masked_fill(~known, 0.0)
    masked = _masked(known, scores.dtype)
    ranked = _ranking_probe(scores / _temperature(scores.detach()) + masked, generator)
    return ranked + _value_probe(scores, generator)


def _value_probe(value: Tensor, generator: torch.Generator) -> Tensor:
    value = value.masked_fill(~value.detach().isfinite(), 0.0)
    spread = value.detach().std().clamp_min(1e-12) if value.numel() > 1 else 1.0
    return (_signs(value, generator) * value / spread).sum()


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
_AGAINST_LABELS: dict[OutputKind, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": _probability_loss,
    "logit": _logit_loss,
    "classes": _class_loss,
    "ranking": _ranking_loss,
    "scores": _squared_loss,
    "value": _squared_loss,
}
