"""Pruning in stages."""

import pytest

from recprune_export.errors import PruningError
from recprune_export.finetuning import task as tasks
from recprune_export.pipeline import _prune as stages
from recprune_export.pipeline import make_sampled_task, plan_all_stages, plan_pruning, prune
from recprune_export.pipeline._prune import PrunedModel, divide_epochs
from recprune_export.pipeline.structured_fraction import TABLE_FRACTIONS, StructuredFractionTrial
from recprune_export.program import Program
from recprune_export.pruning import Budget, ParameterCounter, ParameterCounts, Plan
from recprune_export.settings import Settings
from tests.properties import no_zeros
from tests.pruning.models import scorer

SETTINGS = Settings(sparsity=0.84, epochs=2, batch_size=32, width_multiple=1, pruning_stages=2)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SAMPLED_STEPS", 4)


def pruned_by(settings: Settings, plan: Plan | None = None) -> PrunedModel:
    program = scorer()
    task = make_sampled_task(program, settings.finetuning)
    return prune(program, settings.pruning, settings.finetuning, task, seed=settings.seed, plan=plan)


def sizes(program: Program) -> ParameterCounts:
    return ParameterCounter(program).sizes()


def nonzeros(program: Program) -> int:
    return sum(int(p.count_nonzero()) for p in program.parameters().values())


def test_each_stage_prunes_what_the_one_before_left() -> None:
    dense = sizes(scorer())
    pruned = pruned_by(SETTINGS)
    first, last = pruned.stages
    budget = SETTINGS.pruning.at_stage(1).table_sparsity
    assert budget == pytest.approx(0.6)
    assert 0.35 < sizes(first.program).tables / dense.tables < 0.5  # (1 - .6) ** .95, to a whole column
    assert sizes(last.program).tables < sizes(first.program).tables
    widths = {g.group: len(g.keep) for g in first.plan.groups}
    assert all(g.width == widths[g.group] for g in last.plan.groups if g.group in widths)


def test_an_early_stage_leaves_what_the_last_one_wants_for_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removal costs nothing at the sparsity of the first stage, .6, and more than zeros at that of the last, .84."""

    def loss(trial: StructuredFractionTrial, budget: Budget) -> float:
        return budget.table_structured_fraction if budget.tables > 0.7 else 0.0

    monkeypatch.setattr(StructuredFractionTrial, "loss", loss)
    dense = sizes(scorer()).tables
    first, last = (
        sizes(stage.program).tables / dense for stage in pruned_by(SETTINGS.with_options(hidden_sparsity=0.0)).stages
    )
    share = TABLE_FRACTIONS[-1]
    assert first == pytest.approx((1 - 0.6) ** share, abs=1 / 16)  # of 16 dimensions each
    assert last == pytest.approx((1 - 0.84) ** share, abs=1 / 16)


def test_zeros_are_set_in_the_last_stage_only() -> None:
    pruned = pruned_by(SETTINGS)
    first, last = pruned.stages
    assert nonzeros(first.program) == sum(sizes(first.program).__dict__.values())
    assert (
        nonzeros(last.program) <= pruned.target.tables + pruned.target.rest < sum(sizes(last.program).__dict__.values())
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_the_sparsity_asked_for_is_of_the_dense_model(steps: int) -> None:
    dense = sizes(scorer())
    program = pruned_by(SETTINGS.with_options(pruning_stages=steps)).program
    tables = sum(int(p.count_nonzero()) for name, p in program.parameters().items() if name in program.analysis.tables)
    assert 0.5 * (1 - 0.84) * dense.tables < tables <= (1 - 0.84) * dense.tables


def test_the_plan_of_all_stages_gives_the_same_program() -> None:
    pruned = pruned_by(SETTINGS)
    again = pruned_by(SETTINGS.with_options(pruning_stages=1), Plan.from_dict(pruned.plan.to_dict()))
    assert len(again.stages) == 2
    one, two = pruned.program.parameters(), again.program.parameters()
    assert {name: p.tolist() for name, p in one.items()} == {name: p.tolist() for name, p in two.items()}
    program = scorer()
    task = make_sampled_task(program, SETTINGS.finetuning)
    assert plan_all_stages(program, SETTINGS.pruning, SETTINGS.finetuning, task) == pruned.plan


def test_every_stage_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage is given a program that is not what its plan says."""
    honest, calls = stages.apply_plan, []

    def wrong_the_second_time(*arguments: object) -> Program:
        calls.append(arguments)
        made = honest(*arguments)  # type: ignore[arg-type]
        if len(calls) == 2:
            no_zeros(made.module)
        return made

    monkeypatch.setattr(stages, "apply_plan", wrong_the_second_time)
    with pytest.raises(PruningError, match="differs from the masked one"):
        pruned_by(SETTINGS)
    assert len(calls) == 2


def test_one_step_is_what_a_plan_without_stages_says() -> None:
    program = scorer()
    settings = SETTINGS.with_options(pruning_stages=1)
    task = make_sampled_task(program, settings.finetuning)
    planned = plan_pruning(program, settings.pruning, task)
    assert plan_all_stages(program, settings.pruning, settings.finetuning, task) == planned.plan


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"), [(2, 2, [1, 1]), (7, 3, [2, 2, 3]), (1, 3, [1, 1, 1]), (0, 2, [0, 0])]
)
def test_the_epochs_are_divided(epochs: int, steps: int, expected: list[int]) -> None:
    assert [divide_epochs(epochs, steps, stage) for stage in range(1, steps + 1)] == expected
