import pytest
import torch

from recprune_export.channels import Analysis
from recprune_export.finetuning import LabeledRows, RegularizedProgram, Schedule, make_objective, regularize
from recprune_export.finetuning.group_lasso import GroupLasso
from recprune_export.program import Program
from recprune_export.pruning import GroupPlan, Plan, apply_plan, check_soundness
from tests.finetuning.test_finetune import RECIPE, rows
from tests.finetuning.test_finetune import program as scorer
from tests.pruning.models import scorer as two_tables


def vectors(program: Program, analysis: Analysis, name: str) -> torch.Tensor:
    """All weights of each channel in one row, [D, n]."""
    parameters, found = program.parameters(), []
    for channel in analysis.group(name).channels:
        slices = [s for s in channel.slices if s.tensor in parameters]
        found.append(torch.cat([parameters[s.tensor].select(s.axis, s.index).flatten() for s in slices]))
    return torch.stack(found).detach().double()


def test_a_step_is_block_soft_thresholding() -> None:
    program = two_tables()
    analysis = program.analysis
    for group in analysis.groups:
        before, lasso = vectors(program, analysis, group.name), GroupLasso(program, group)
        amount = 0.9  # enough for some channels and not for others
        threshold = amount * before.square().mean().sqrt() * before.shape[1] ** 0.5
        expected = before * (1 - threshold / before.norm(dim=1, keepdim=True)).clamp_min(0)
        lasso.shrink(amount)
        after = vectors(program, analysis, group.name)
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
        dead = before.norm(dim=1) <= threshold
        assert 0 < int(dead.sum()) < group.width
        assert bool((after[dead] == 0).all())


def test_a_step_is_the_minimum_of_its_problem() -> None:
    """The proximal operator of f at v is argmin f(w) + |w - v|²/2; nearby there is nothing better."""
    program = two_tables()
    analysis = program.analysis
    group = analysis.groups[0]
    before, lasso = vectors(program, analysis, group.name), GroupLasso(program, group)
    thresholds = lasso.thresholds(0.9)

    def value(w: torch.Tensor) -> torch.Tensor:
        return (thresholds * w.norm(dim=1)).sum() + (w - before).square().sum() / 2

    lasso.shrink(0.9)
    after = vectors(program, analysis, group.name)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            nearby = after + size * torch.randn(after.shape, generator=generator, dtype=torch.float64)
            assert float(value(nearby)) > float(value(after))


@pytest.fixture(scope="module")
def trained() -> tuple[Program, LabeledRows]:
    """A dense program that knows its labels."""
    program = scorer(1)
    task = LabeledRows(rows(), make_objective(program, ("click",)), RECIPE)
    optimizer = torch.optim.Adam(program.module.parameters(), lr=1e-2)
    for epoch in range(30):
        for request, labels in task.training_batches(epoch):
            optimizer.zero_grad()
            task.objective.supervised(program(request), labels).backward()
            optimizer.step()
    return program, task


Trained = tuple[Program, LabeledRows]


def train(trained: Trained, strength: float, epochs: int = 30) -> RegularizedProgram:
    return regularize(*trained, strength, Schedule(epochs, 1e-2, gradual=True, seed=0))


def test_channels_die_in_training_and_more_of_them_with_more_strength(trained: Trained) -> None:
    none, some, all_of_them = (train(trained, strength) for strength in (0.0, 1.0, 3.0))
    assert set(none.zero_channels.values()) == {0}
    assert 0 < sum(some.zero_channels.values()) < sum(all_of_them.zero_channels.values()) == 14
    assert some.fitted.metric > trained[1].validate(trained[0]) - 0.02


def test_the_dense_program_is_left_as_it_is(trained: Trained) -> None:
    before = {name: p.detach().clone() for name, p in trained[0].parameters().items()}
    train(trained, 1.0, epochs=1)
    assert all(torch.equal(before[name], p) for name, p in trained[0].parameters().items())


def test_channels_without_weights_can_go_and_nothing_changes(trained: Trained) -> None:
    program, analysis = train(trained, 1.0).program, trained[0].analysis
    kept = {
        group.name: [i for i, v in enumerate(vectors(program, analysis, group.name)) if bool(v.any())]
        for group in analysis.groups
    }
    plan = Plan("zero", tuple(GroupPlan(g.name, g.kind, g.width, tuple(kept[g.name])) for g in analysis.groups))
    assert plan.removed(analysis)
    pruned = apply_plan(program, plan)
    check_soundness(program, plan, pruned)
    request = {"user": torch.arange(20)}
    with torch.no_grad():
        torch.testing.assert_close(pruned(request)["click"], program(request)["click"], rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_weights(trained: Trained) -> None:
    one, two = (train(trained, 1.0, epochs=2).program.parameters().values() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("epochs", [1, 3])
def test_only_the_last_epoch_is_kept(trained: Trained, epochs: int) -> None:
    assert train(trained, 1.0, epochs).fitted.best == epochs - 1
