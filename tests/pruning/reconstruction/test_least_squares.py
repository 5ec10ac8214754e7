"""Refitting and restating bring a pruned program nearer to the dense one, never farther."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, fx, nn

from recprune_export.channels import Analysis
from recprune_export.data import Batch
from recprune_export.program import Program, record_values
from recprune_export.program.capture import capture
from recprune_export.program.paused_run import PausedRun
from recprune_export.pruning import GroupPlan, Plan, apply_plan, reconstruct_layers
from recprune_export.pruning.reconstruction.batch_norm import LayerReconstruction
from recprune_export.recommenders import RECOMMENDERS
from tests.properties import no_zeros, random_plan
from tests.recommenders.test_recommenders import make, spec_of


def batches_of(program: Program, count: int = 8, rows: int = 128) -> list[Batch]:
    from recprune_export.program import sample_request_tensors

    names = [i.name for i in program.signature.inputs]
    return [
        (dict(zip(names, sample_request_tensors(program.signature, rows, seed), strict=True)), {})
        for seed in range(count)
    ]


def error(dense: Program, pruned: Program, request: Mapping[str, Tensor]) -> float:
    with torch.no_grad():
        one, other = dense(request), pruned(request)
    return sum(float((one[name] - other[name]).square().mean()) for name in one)


def refitted(
    program: Program, plan: Plan, analysis: Analysis
) -> tuple[Program, Program, tuple[LayerReconstruction, ...]]:
    plain, student = (apply_plan(program, plan) for _ in range(2))
    return plain, student, reconstruct_layers(program, plan, student, batches_of(program))


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_no_layer_of_a_recommender_is_worse_after_it(name: str) -> None:
    program = capture(make(name), (spec_of(name).example_request(),))
    analysis = program.analysis
    _, _, results = refitted(program, random_plan(analysis, seed=1), analysis)
    assert results
    assert all(result.after <= result.before for result in results)
    assert any(result.after < 0.99 * result.before for result in results)


class Copies(nn.Module):
    """Hidden units 4 to 7 say the same as 0 to 3, and unit 8 never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 9), nn.Linear(9, 2)
        with torch.no_grad():
            self.first.weight[4:8] = 2.0 * self.first.weight[:4]
            self.first.bias[4:8] = 2.0 * self.first.bias[:4]
            self.first.weight[8] = 0.0
            self.first.bias[8] = 1.5

    def forward(self, x: Tensor) -> Tensor:
        """[B, 5] -> [B, 2]."""
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return]


def test_what_other_units_say_and_the_mean_of_what_went_are_made_up_for() -> None:
    torch.manual_seed(0)
    program = capture(Copies().eval(), (torch.randn(3, 5),))
    analysis = program.analysis
    (group,) = analysis.groups
    plan = Plan("", (GroupPlan(group.name, group.kind, 9, (0, 1, 2, 3)),))
    plain, student, _ = refitted(program, plan, analysis)
    unseen = {program.signature.inputs[0].name: torch.randn(200, 5)}
    assert error(program, student, unseen) < 1e-4 * error(program, plain, unseen)


class Normed(nn.Module):
    """A batch-norm between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 1)
        self.before = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 20] -> [B, 1]."""
        return self.second(torch.relu(self.norm(self.first(torch.relu(self.before(x))))))  # type: ignore[no-any-return]


def test_statistics_of_a_batch_norm_are_taken_anew() -> None:
    module = no_zeros(Normed())
    program = capture(module, (torch.randn(3, 20),))
    analysis = program.analysis
    plan = random_plan(analysis, seed=3)
    plain, student, results = refitted(program, plan, analysis)
    norms = [result for result in results if result.layer == "norm.running_mean"]
    assert len(norms) == 1
    assert norms[0].after <= norms[0].before
    unseen = {program.signature.inputs[0].name: torch.randn(500, 20)}
    assert error(program, student, unseen) < error(program, plain, unseen)


def test_the_same_batches_give_the_same_weights() -> None:
    program = capture(make("deepfm"), (spec_of("deepfm").example_request(),))
    analysis = program.analysis
    plan = random_plan(analysis, seed=2)
    one, other = (refitted(program, plan, analysis)[1].parameters() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


class NormOfFields(nn.Module):
    """A batch-norm whose channels are fields, before dimensions that go."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, 16) for _ in range(3))
        self.norm, self.last = nn.BatchNorm1d(3), nn.Linear(48, 1)

    def forward(self, ids: Tensor) -> Tensor:
        stacked = torch.stack([table(ids[:, field]) for field, table in enumerate(self.tables)], dim=1)  # [B, 3, 16]
        return self.last(self.norm(stacked).flatten(1))


def test_a_batch_norm_beside_an_axis_that_is_cut_is_no_worse() -> None:
    torch.manual_seed(0)
    program = capture(NormOfFields().eval(), (torch.randint(0, 50, (4, 3)),))
    analysis = program.analysis
    assert any(group.kind == "embedding" for group in analysis.groups)
    _, _, results = refitted(program, random_plan(analysis, seed=1), analysis)
    assert "norm.running_mean" in {result.layer for result in results}
    assert all(result.after <= result.before for result in results)


class Projected(nn.Module):
    """Between its layers stands a matrix of few numbers again and again: a constant, no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(5, 1)
        self.register_buffer("matrix", (torch.randn(5, 8) > 0) * torch.arange(1.0, 9.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(nn.functional.linear(torch.relu(self.first(x)), self.matrix)))  # type: ignore[no-any-return]


def test_a_layer_whose_weight_is_a_constant_stays() -> None:
    program = capture(no_zeros(Projected()), (torch.randn(3, 6),))
    analysis = program.analysis
    _, student, results = refitted(program, random_plan(analysis, seed=1), analysis)
    assert {result.layer for result in results} <= {"first.weight", "last.weight"}
    kept, constant = (set(p.module.matrix.flatten().tolist()) for p in (student, program))  # type: ignore[union-attr, operator]
    assert kept < constant


class Crosswise(nn.Module):
    """A layer reads along one axis what other channels are cut from along another."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.across, self.last = nn.Embedding(20, 6), nn.Linear(4, 3), nn.Linear(18, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.across(self.table(ids).transpose(1, 2)).flatten(1))  # type: ignore[no-any-return]


def test_a_layer_with_fewer_rows_than_before_stays() -> None:
    program = capture(no_zeros(Crosswise()), (torch.randint(20, (3, 4)),))
    analysis = program.analysis
    assert ("table.weight", 1) in {axis for g in analysis.groups for axis in g.axes()}
    halves = tuple(
        GroupPlan(g.name, g.kind, g.width, tuple(range(g.width // 2))) for g in analysis.groups if g.width > 1
    )
    _, _, results = refitted(program, Plan("half", halves), analysis)
    assert "across.weight" not in {result.layer for result in results}


class Tower(nn.Module):
    """A layer that is called twice, the second time on what became of the first, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.tied, self.between, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.between(torch.relu(self.tied(x))))
        return self.last(torch.relu(self.tied(hidden)))  # type: ignore[no-any-return]


def refit_by_whole_runs(dense: Program, student: Program, requests: list[Mapping[str, Tensor]]) -> None:
    """Refit the layers of a program without removed outputs one by one, each from whole runs of both programs."""
    linear = [n for n in student.module.graph.nodes if n.target is torch.ops.aten.linear.default]
    weights = dict.fromkeys(str(node.args[1].target) for node in linear)
    for name in weights:
        calls = [node for node in linear if node.args[1].target == name]
        inputs, outputs = [], []
        for request in requests:
            expected = record_values(dense, request, [n.name for n in calls])
            sources = [n.args[0].name for n in calls]
            values = record_values(student, request, sources)
            inputs += [values[source] for source in sources]
            outputs += [expected[n.name] for n in calls]
        a, y = torch.cat(inputs).double(), torch.cat(outputs).double()
        a = torch.cat([a, torch.ones(len(a), 1)], 1)
        parameters = student.parameters()
        weight, bias = parameters[name], parameters[name.replace("weight", "bias")]
        old = torch.cat([weight, bias[:, None]], 1).detach().double()
        ridge = 1e-4 * (a.T @ a).diagonal().mean() * torch.eye(a.shape[1]).double()
        new = old + torch.linalg.solve(a.T @ a + ridge, a.T @ (y - a @ old.T)).T
        if (y - a @ new.T).square().sum() < (y - a @ old.T).square().sum():
            with torch.no_grad():
                weight.copy_(new[:, :-1])
                bias.copy_(new[:, -1])


def test_one_pass_gives_the_weights_of_whole_runs_for_each_layer() -> None:
    torch.manual_seed(0)
    dense = capture(Tower().eval(), (torch.randn(3, 6),))
    plan = Plan("", tuple(GroupPlan(g.name, g.kind, g.width, tuple(range(g.width))) for g in dense.analysis.groups))
    fitted, expected = (dense.with_copied_parameters() for _ in range(2))
    for student in (fitted, expected):
        with torch.no_grad():
            for number, parameter in enumerate(student.parameters().values()):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    batches = batches_of(dense, count=3)  # so few that none is held out
    reconstruct_layers(dense, plan, fitted, batches)
    refit_by_whole_runs(dense, expected, [request for request, _ in batches])
    for name, parameter in fitted.parameters().items():
        torch.testing.assert_close(parameter, expected.parameters()[name], rtol=1e-5, atol=1e-6)


def test_each_node_runs_once_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, str]] = []
    original = PausedRun.run_node

    def run_node(self: PausedRun, n: fx.Node) -> object:
        ran.append((id(self), n.name))
        return original(self, n)

    monkeypatch.setattr(PausedRun, "run_node", run_node)
    program = capture(make("dlrm"), (spec_of("dlrm").example_request(),))
    _, _, results = refitted(program, random_plan(program.analysis, seed=1), program.analysis)
    assert len(results) > 4
    assert ran
    assert len(ran) == len(set(ran))
