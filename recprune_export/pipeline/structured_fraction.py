"""Choose how much of a sparsity is removed channels and how much zeros, by trial, for no prediction compares the two.

Where few directions matter, removal of the others costs nothing, and makes the model smaller and faster. Where the rank
is high (the items of a sequential recommender, its narrow heads) the same number of unstructured zeros loses less. Tables
and the rest are tried separately, by the loss of the outputs on calibration data before fine-tuning.
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
# Less removal makes a slower model. Of tables it is the lookups alone, of the rest it is all of the arithmetic.
TABLE_MAX_LOSS_RATIO, REST_MAX_LOSS_RATIO = 0.9, 0.5  # of the loss, that is left at most
MIN_RISE = 1.1  # of the lowest loss so far; smaller rises are those of calibration data
REFIT_BATCHES = 4
MAX_ANSWER_BYTES = 1 << 26  # scores of all items of a large catalog are computed again for each trial

Answers = Mapping[str, Tensor]  # by the name of the output


def choose_structured_fractions(
    compute_loss: Callable[[Budget], float], budget: Budget, negligible_loss: float
) -> Budget:
    """Return the budget with the fractions that lose least, tables and the rest each tried with the other dense.

    `compute_loss` returns the loss of a budget; a loss up to `negligible_loss` counts as none.
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
    """Return `budget` with sparsity 0 for tables or the rest where no channel can be removed, so that no fraction matters."""
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
    """Return the last of the falling `fractions` at which the loss still fell to `max_loss_ratio` of the best before.

    The search ends at a loss of `negligible_loss`, and where the loss rises again: fewer removed channels cost less and less,
    more zeros more and more.

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
    `MAX_ANSWER_BYTES`, and the loss of each plan. A trial frees its programs at once. Its time is that of one forward pass of
    the dense program, two of the pruned model and a backward pass, besides the fits of the layers; its memory is that of the
    tables that its budget changes, once rotated and once narrowed. Of a program that answers at each position of a history, so
    many batches are used as have an answer for each row of `batches`. Of several processes each answers its share of every batch.
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
        """Return the refitted program, which shares the `unchanged` tables with the dense model where the plan narrows none."""
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
    """The outputs of the dense program for each batch, computed once where they need little memory, else each time."""

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
    """Return the parameters of the parts, tables or rest, that have more than their target of non-zeros."""
    in_tables, in_rest = count_parameters(student, tables)
    names = frozenset(student.parameters())
    return (tables if in_tables > target.tables else frozenset()) | (
        names - tables if in_rest > target.rest else frozenset()
    )
