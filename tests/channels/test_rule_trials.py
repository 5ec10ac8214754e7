"""Inferred rules: what carries channels is found, what only seems to is not, and masked equals pruned for both."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from recprune_export.api import compress
from recprune_export.channels.inferred_rules import INFERRED, InferredRule, NoInferredRule
from recprune_export.channels.rule_trials import infer_channel_rules, infer_rule
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import apply_plan, check_soundness
from tests.properties import no_zeros, prunable, random_plan, reasons

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from custom_operators import ADVERSARIAL, CARRYING, OPERATORS, CustomOperator, TowerOfOperator

aten = torch.ops.aten
FIELDS, WIDTH = 3, 8


def infer(operator: CustomOperator, width: int = WIDTH) -> tuple[Program, InferredRule | NoInferredRule]:
    x = torch.randn(8, FIELDS, 4, generator=torch.Generator().manual_seed(width))
    program = capture(no_zeros(TowerOfOperator(operator, FIELDS, width)), (x,))
    program = infer_channel_rules(program, {program.signature.inputs[0].name: x.numpy()})
    (found,) = (node.meta[INFERRED] for node in program.module.graph.nodes if INFERRED in node.meta)
    return program, found


def check_random_plans(program: Program) -> None:
    for seed in range(3):
        plan = random_plan(program.analysis, seed)
        pruned = apply_plan(program, plan)
        check_soundness(program, plan, pruned)
        assert any(INFERRED in node.meta for node in pruned.module.graph.nodes)
        check_soundness(
            pruned, random_plan(pruned.analysis, seed), apply_plan(pruned, random_plan(pruned.analysis, seed))
        )


@pytest.mark.parametrize("operator", CARRYING, ids=lambda operator: operator.name)
def test_an_operator_that_carries_channels_gets_a_rule(operator: CustomOperator) -> None:
    program, found = infer(operator)
    assert isinstance(found, InferredRule)
    assert found.trials > 100
    assert ("first.weight", 0) in prunable(program.analysis)
    assert [rule.operator for rule in program.analysis.inferred] == [found.operator]
    assert any(f"{found.operator} is inferred from" in note for note in program.notes)
    check_random_plans(program)


@pytest.mark.parametrize("operator", ADVERSARIAL, ids=lambda operator: operator.name)
def test_an_operator_that_mixes_channels_gets_none(operator: CustomOperator) -> None:
    program, _ = infer(operator)
    assert ("first.weight", 0) not in prunable(program.analysis)
    assert "recprune_custom" in reasons(program.analysis, "first.weight", 0)


@settings(max_examples=12)
@given(st.sampled_from(OPERATORS), st.sampled_from([2, 3, 5, 7, 13, 16, 33]))
def test_any_width_gives_the_same_judgment(operator: CustomOperator, width: int) -> None:
    program, _ = infer(operator, width)
    assert (("first.weight", 0) in prunable(program.analysis)) is operator.carries


def test_without_trials_nothing_of_an_unknown_operator_is_removed() -> None:
    program = capture(no_zeros(TowerOfOperator(CARRYING[0], FIELDS, WIDTH)), (torch.randn(3, FIELDS, 4),))
    assert ("first.weight", 0) not in prunable(program.analysis)
    assert "--infer-rules" in reasons(program.analysis, "first.weight", 0)


def test_the_same_rows_give_the_same_rule() -> None:
    assert infer(CARRYING[3])[1] == infer(CARRYING[3])[1]


def make_node(target: object, *operands: Tensor, **kwargs: object) -> fx.Node:
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{number}") for number in range(len(operands))]
    for node, value in zip(inputs, operands, strict=True):
        node.meta["val"] = value
    return graph.call_function(target, tuple(inputs), kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (aten.relu_.default, "changes its operands"),
        (aten.transpose.int, "views"),
        (aten.bernoulli.default, "nondeterministic_seeded"),
        (aten.nonzero.default, "dynamic_output_shape"),
        (torch.relu, "no operator with a schema"),
    ],
)
def test_what_is_no_pure_function_by_its_schema_is_not_tried(target: object, reason: str) -> None:
    x = torch.rand(4, 3, 8)
    found = infer_rule(make_node(target, x), [x])
    assert isinstance(found, NoInferredRule)
    assert reason in found.reason


def test_several_results_each_have_their_axis() -> None:
    x = torch.randn(4, 3, 8)
    node = make_node(aten.max.dim, x)
    node.args = (*node.args, 1)
    found = infer_rule(node, [x])
    assert isinstance(found, InferredRule)
    assert [(axis.operands, axis.results) for axis in found.axes] == [(((0, 0),), (0, 0)), (((0, 2),), (1, 1))]


def test_a_hidden_state_is_found_out() -> None:
    calls = []

    @torch.library.custom_op("recprune_tests::every_third_call", mutates_args=())
    def every_third_call(x: Tensor) -> Tensor:
        calls.append(None)
        return x * (2.0 if len(calls) % 3 == 0 else 1.0)

    x = torch.randn(4, 3, 8)
    found = infer_rule(make_node(torch.ops.recprune_tests.every_third_call.default, x), [x])
    assert isinstance(found, NoInferredRule)


def test_an_operand_that_is_changed_in_secret_is_found_out() -> None:
    @torch.library.custom_op("recprune_tests::secretly_in_place", mutates_args=())
    def secretly_in_place(x: Tensor) -> Tensor:
        result = x.clone()
        x.zero_()
        return result

    x = torch.randn(4, 3, 8)
    found = infer_rule(make_node(torch.ops.recprune_tests.secretly_in_place.default, x), [x])
    assert found == NoInferredRule("it changes its operands")


class Angles(nn.Module):
    """A hidden layer behind an operator of PyTorch without a written rule."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.score = nn.Embedding(200, 16), nn.Linear(16, 32), nn.Linear(32, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.score(torch.rad2deg(torch.relu(self.hidden(self.table(ids))))).squeeze(1)  # type: ignore[no-any-return]


def test_a_job_with_inferred_rules_says_so_in_the_manifest(tmp_path: Path) -> None:
    options = {"sparsity": 0.7, "epochs": 0, "quick": True}
    without, inferred = (
        compress(Angles(), torch.arange(4), tmp_path / str(infer), infer_rules=infer, **options).manifest
        for infer in (False, True)
    )
    assert "inferred_rules" not in without.plan
    assert [rule["operator"] for rule in inferred.plan["inferred_rules"]] == ["aten.rad2deg"]
    widths = {group["group"]: group["kept"] for group in inferred.plan["groups"]}
    assert widths["hidden.weight:0"] < 32
    assert "hidden.weight:0" not in {group["group"] for group in without.plan["groups"]}
    assert any("aten.rad2deg is inferred from" in note for note in inferred.notes)
