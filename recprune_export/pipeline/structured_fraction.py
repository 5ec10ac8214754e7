"""Choose by trial how much of a sparsity comes from removed channels and how much from zeros, since no prediction compares the two.

If few directions matter, removing the others costs nothing, and makes the model smaller and faster. If the rank is high (the items of a
sequential recommender, its narrow heads), the same number of unstructured zeros loses less. Tables and other layers are tried separately,
by the loss of the outputs on calibration data before fine-tuning.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.distributed.shares import gather_answers
from recprune_export.finetuning.answer_counts import count_answers_of_row, take_answers
from recprune_export.finetuning.curvature import weight_curvature
from recprune_export.finetuning.masks import NonZeroTarget, apply_masks, compute_masks, count_parameters
from recprune_export.finetuning.objective import Objective
from recprune_export.program.program import Program
from recprune_export.program.requests.share_request import share_batch
from recprune_export.pruning.allocation.budget import Budget, make_plan
from recprune_export.pruning.allocation.parameter_counts import ParameterCounts
from recprune_export.pruning.apply._apply_plan import apply_plan, tables_left
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.pruning_constants import REST_STRUCTURED_FRACTION, TABLE_STRUCTURED_FRACTION
from recprune_export.pruning.reconstruction.least_squares import reconstruct_layers
from recprune_export.pruning.rotation._apply_transforms import apply_transforms
from recprune_export.pruning.rotation.eligibility import find_rotatable_groups

TABLE_FRACTIONS = (TABLE_STRUCTURED_FRACTION, 0.65, 0.5, 0.35, 0.2)
REST_FRACTIONS = (REST_STRUCTURED_FRACTION, 0.8, 0.65, 0.5)
# Fewer removed channels make a slower model. In tables this affects only lookups, in other layers all arithmetic.
TABLE_MAX_LOSS_RATIO, REST_MAX_LOSS_RATIO = 0.9, 0.5  # the largest fraction of the loss that may remain
MIN_RISE = 1.1  # of the lowest loss so far; smaller increases are noise of calibration data
REFIT_BATCHES = 4
# larger outputs, such as scores of all items of a large catalog, are computed again for each trial
MAX_ANSWER_BYTES = 1 << 26

Answers = Mapping[str, Tensor]  # by the name of the output


def choose_structured_fractions(
    compute_loss: Callable[[Budget], float], budget: Budget, negligible_loss: float
) -> Budget:
    """Return the budget with the fractions that lose least; tables are tried with other layers dense, and vice versa.

    `compute_loss` returns the loss of a budget; a loss up to `negligible_loss` counts as zero.
    """
    tables, rest = budget.table_structured_fraction, budget.rest_structured_fraction
    if budget.tables:
        alone = replace(budget, rest=0.0)
        tables = choose_fraction(
            TABLE_FRACTIONS,
            lambda fraction: compute_loss(replace(alone, table_structured_fraction=fraction)),
            TABLE_MAX_LOSS_RATIO,
            negligible_loss,
        )
    if budget.rest:
        alone = replace(budget, tables=0.0)
        rest = choose_fraction(
            REST_FRACTIONS,
            lambda fraction: compute_loss(replace(alone, rest_structured_fraction=fraction)),
            REST_MAX_LOSS_RATIO,
            negligible_loss,
        )
    return replace(budget, table_structured_fraction=tables, rest_structured_fraction=rest)


def restrict_to_prunable(budget: Budget, program: Program) -> Budget:
    """Return `budget` with sparsity 0 for tables or other layers without a removable channel, for which no fraction needs to be
    chosen."""
    analysis = program.analysis
    groups = [g for g in analysis.groups if g.width > 1 and not (budget.keep_tables and g.kind == "embedding")]
    prunable = {tensor for group in groups for tensor, _ in group.axes()} & program.parameters().keys()
    return replace(
        budget,
        tables=budget.tables if prunable & analysis.tables else 0.0,
        rest=budget.rest if prunable - analysis.tables else 0.0,
    )


def choose_fraction(
    fractions: Sequence[float], compute_loss: Callable[[float], float], max_loss_ratio: float, negligible_loss: float
) -> float:
    """Return the last of the decreasing `fractions` whose loss is at most `max_loss_ratio` of the lowest loss before it.

    The search ends at a loss of `negligible_loss`, and when the loss increases again: with decreasing fractions, removed channels cost
    less and zeros cost more.

    >>> losses = {0.8: 3.0, 0.65: 2.9, 0.5: 1.0, 0.35: 0.9}
    >>> [choose_fraction(tuple(losses), losses.__getitem__, 0.7, enough) for enough in (0.1, 3.5)]
    [0.5, 0.8]
    """
    best, best_loss = fractions[0], compute_loss(fractions[0])
    lowest_loss = best_loss
    for fraction in fractions[1:]:
        if best_loss <= negligible_loss:
            break
        loss = compute_loss(fraction)
        if loss <= max_loss_ratio * best_loss:
            best, best_loss = fraction, loss
        if loss > MIN_RISE * lowest_loss:
            break
        lowest_loss = min(loss, lowest_loss)
    return best


class StructuredFractionTrial:
    """Prunes by a budget, sets the remaining zeros, and measures the distance of the outputs from the dense ones.

    Results that do not depend on the budget are computed once: the outputs of the dense program, if they are not larger than
    `MAX_ANSWER_BYTES`, and the loss of each plan. A trial frees its programs immediately. Its time is that of one forward pass of the
    dense program, two of the pruned model and a backward pass, in addition to the fits of the layers. Its memory is that of the tables
    that its budget changes, once rotated and once narrowed. For a program that answers at each position of a history, only as many
    batches are used as give one answer for each row of `batches`. With several processes, each answers its share of every batch.
    """

    def __init__(
        self,
        program: Program,
        rankings: Mapping[str, Ranking],
        dense: ParameterCounts,
        objective: Objective,
        batches: Sequence[Batch],
        *,
        refit: bool,
        seed: int,
    ) -> None:
        self._program, self._rankings, self._dense = program, rankings, dense
        rows = sum(max(len(values) for values in request.values()) for request, _ in batches)
        of_row = count_answers_of_row(program.signature)
        self._objective, self._whole = objective, list(take_answers(rows, batches, of_row))
        self._batches = [share_batch(program.signature, batch) for batch in self._whole]
        self._refit, self._seed = refit, seed
        self._rotatable = find_rotatable_groups(program).rotatable
        self._answers = _DenseAnswers(program, self._batches)
        self._dense_loss = self._mean_distance(self._answers)
        self._losses: dict[tuple[Any, ...], float] = {}

    def loss(self, budget: Budget) -> float:
        """Return the distance of the outputs from those of the dense program, in units of the loss."""
        plan = make_plan(self._program, self._rankings, budget, OUTPUT_ERROR, dense=self._dense)
        target = NonZeroTarget.from_sparsity(self._dense, budget.tables, budget.rest)
        widths = tuple(len(group.keep) for group in plan.groups)
        if (widths, target) not in self._losses:
            unchanged = frozenset() if budget.tables else self._program.analysis.tables
            self._losses[widths, target] = self._compute_loss(plan, target, unchanged)
        return self._losses[widths, target]

    def _compute_loss(self, plan: Plan, target: NonZeroTarget, unchanged: frozenset[str]) -> float:
        student = self._apply_plan(plan, unchanged)
        tables = tables_left(self._program, student)
        zeroed = _find_parameters_with_zeros(student, tables, target)
        curvature = weight_curvature(student, tables, self._batches, self._objective.probe, self._seed, names=zeroed)
        apply_masks(student, compute_masks(student, tables, target, curvature))
        return self._distance(student) - self._dense_loss

    def _apply_plan(self, plan: Plan, unchanged: frozenset[str]) -> Program:
        """Return the refitted program, which shares the `unchanged` tables with the dense model if the plan narrows no table."""
        original = apply_transforms(self._program, self._rotatable, plan.transforms)
        student = apply_plan(original, plan, shared=unchanged)
        if self._refit:
            reconstruct_layers(original, plan, student, self._whole[:REFIT_BATCHES])
        return student

    def _distance(self, student: Program) -> float:
        student.set_training(False)
        with torch.no_grad():
            return self._mean_distance(student(request) for request, _ in self._batches)

    def _mean_distance(self, answers: Iterable[Answers]) -> float:
        pairs = (gather_answers(pair) for pair in zip(answers, self._answers, strict=True))
        distances = [self._objective.distillation(*pair) for pair in pairs]
        return float(torch.stack(distances).mean().detach())


class _DenseAnswers:
    """The outputs of the dense program for each batch, computed once if they need little memory, otherwise each time."""

    def __init__(self, program: Program, batches: Sequence[Batch]) -> None:
        self._program, self._batches = program, batches
        first = next(self._compute())
        fits = len(batches) * sum(answer.nbytes for answer in first.values()) <= MAX_ANSWER_BYTES
        self._stored = list(self._compute()) if fits else None

    def __iter__(self) -> Iterator[Answers]:
        return self._compute() if self._stored is None else iter(self._stored)

    def _compute(self) -> Iterator[Answers]:
        for request, _ in self._batches:
            with torch.no_grad():
                answers = self._program(request)
            yield answers


def _find_parameters_with_zeros(student: Program, tables: frozenset[str], target: NonZeroTarget) -> frozenset[str]:
    """Return the parameters of the part (tables or other layers) that has more non-zeros than its target."""
    in_tables, in_rest = count_parameters(student, tables)
    names = frozenset(student.parameters())
    return (tables if in_tables > target.tables else frozenset()) | (
        names - tables if in_rest > target.rest else frozenset()
    )
