"""For every reference recommender: it is captured, pruned by any plan, exported, and says the same all along."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.channels import Analysis
from recprune_export.errors import UsageError
from recprune_export.onnx import count, export_onnx, make_session, run
from recprune_export.program import Program, sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import GroupPlan, ParameterCounter, Plan, apply_plan, check_soundness
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender

CLICKS = InputSpec(
    categorical={"user": 40, "item": 30, "type": 5},
    multi_valued={"tags.all": 9},
    lengths={"tags.all": 4},
    n_numeric=3,
    labels=("click",),
)
TWO_TASKS = InputSpec(**{**vars(CLICKS), "labels": ("click", "buy")})
HISTORIES = InputSpec(items=25, max_length=6, labels=("next_item",))
SMALL = {
    "two_tower": {"dim": 6, "hidden": (10, 8)},
    "neumf": {"dim": 6, "hidden": (10, 8)},
    "deepfm": {"dim": 6, "hidden": (10, 8)},
    "dlrm": {"dim": 6, "hidden": (10, 8), "bottom": (7,)},
    "dcn_v2": {"dim": 4, "hidden": (10, 8)},
    "mmoe": {"dim": 4, "hidden": (10, 8), "experts": 3, "tower": 5},
    "sasrec": {"dim": 8, "layers": 2, "heads": 2, "width": 12},
}
PLANS = 6


def spec_of(name: str) -> InputSpec:
    return {"sasrec": HISTORIES, "mmoe": TWO_TASKS}.get(name, CLICKS)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = build_recommender(name, spec_of(name), SMALL[name])
    for parameter in module.parameters():  # nothing may be zero by chance of initialisation
        nn.init.normal_(parameter, std=0.5)
    for buffer_name, buffer in module.named_buffers():
        if buffer_name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module.eval()


@pytest.fixture(scope="module", params=sorted(RECOMMENDERS))
def captured(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Program, Analysis]:
    module = make(request.param)
    program = capture(module, (spec_of(request.param).example_request(),))
    return request.param, module, program, program.analysis


def random_plan(analysis: Analysis, seed: int) -> Plan:
    rng = random.Random(seed)
    parts = (
        GroupPlan(g.name, g.kind, g.width, tuple(sorted(rng.sample(range(g.width), rng.randint(1, g.width)))))
        for g in analysis.groups
    )
    return Plan("random", tuple(parts))


def test_the_program_answers_as_the_module(captured: tuple[str, nn.Module, Program, Analysis]) -> None:
    _, module, program, _ = captured
    for batch in (1, 5):
        tensors = sample_request_tensors(program.signature, batch, seed=batch)
        request = {i.name: tensor for i, tensor in zip(program.signature.inputs, tensors, strict=True)}
        with torch.no_grad():
            expected, answered = module(request), program(request)
        for name, value in expected.items():
            torch.testing.assert_close(answered[name], value, rtol=1e-5, atol=1e-6)


def test_masked_equals_pruned_for_any_plan(captured: tuple[str, nn.Module, Program, Analysis]) -> None:
    _, _, program, analysis = captured
    sizes = ParameterCounter(program)
    for seed in range(PLANS):
        plan = random_plan(analysis, seed)
        pruned = apply_plan(program, plan)
        assert check_soundness(program, plan, pruned).error < 1e-9
        expected = sizes.sizes(plan.removed(analysis))
        assert sum(p.numel() for p in pruned.parameters().values()) == expected.tables + expected.rest


def test_every_table_has_channels_that_can_go(captured: tuple[str, nn.Module, Program, Analysis]) -> None:
    name, _, program, analysis = captured
    shrinkable = {tensor for group in analysis.groups for tensor, axis in group.axes() if axis == 1}
    wide = {table for table in analysis.tables if program.parameters()[table].shape[1] > 1}
    assert wide <= shrinkable, name


def test_sasrec_loses_dimensions_of_its_items_and_of_its_heads() -> None:
    program = capture(make("sasrec"), (HISTORIES.example_request(),))
    on = {axis for group in program.analysis.groups for axis in group.axes()}
    assert {("items.weight", 1), ("positions.weight", 1)} <= on
    for layer in range(2):
        assert {(f"layers.{layer}.{part}.weight", 0) for part in ("query", "key", "value", "widen")} <= on


def test_onnx_answers_as_the_pruned_program(captured: tuple[str, nn.Module, Program, Analysis], tmp_path: Path) -> None:
    _, _, program, analysis = captured
    pruned = apply_plan(program, random_plan(analysis, seed=9))
    file = export_onnx(pruned, tmp_path / "model.onnx")
    session = make_session(file.path, threads=1)
    for batch in (1, 7):
        tensors = sample_request_tensors(pruned.signature, batch, seed=batch)
        request = {i.name: t.numpy() for i, t in zip(pruned.signature.inputs, tensors, strict=True)}
        with torch.no_grad():
            expected = pruned.module(*tensors)
        answered = run(session, request)
        for output, value in zip(pruned.signature.outputs, expected, strict=True):
            np.testing.assert_allclose(answered[output.name], value.numpy(), rtol=1e-4, atol=2e-5)
    counts = count(file.path)
    tables = sum(pruned.parameters()[name].numel() for name in pruned.analysis.tables)
    assert counts.tables.parameters == tables


def test_a_program_survives_its_file(captured: tuple[str, nn.Module, Program, Analysis], tmp_path: Path) -> None:
    _, _, program, _ = captured
    program.save(tmp_path / "model.pt2")
    again = Program.load(tmp_path / "model.pt2")
    assert again.signature == program.signature
    tensors = sample_request_tensors(program.signature, 4)
    with torch.no_grad():
        for one, other in zip(program.module(*tensors), again.module(*tensors), strict=True):
            torch.testing.assert_close(one, other)


def test_fields_may_have_any_name() -> None:
    spec = InputSpec(categorical={"type": 4, "a.b": 4, "a b": 4, "keys": 4}, labels=("y",))
    module = build_recommender("dlrm", spec, {"dim": 4, "hidden": (4,)}).eval()
    program = capture(module, (spec.example_request(),))
    assert [i.name for i in program.signature.inputs] == ["type", "a.b", "a b", "keys"]


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [("dlrn", {}, "'dlrn' is not a recommender"), ("dlrm", {"heads": 2}, "no option 'heads'")],
)
def test_what_there_is_not_is_said(name: str, config: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build_recommender(name, CLICKS, config)


@pytest.mark.parametrize("name", ["two_tower", "neumf"])
def test_two_sides_need_two_fields(name: str) -> None:
    with pytest.raises(UsageError, match="two categorical fields"):
        build_recommender(name, InputSpec(categorical={"user": 3}, labels=("y",)), {})
