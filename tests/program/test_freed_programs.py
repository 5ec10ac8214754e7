"""The weights of a program are freed with it at once: no cycle of references holds them until garbage is collected."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from recprune_export.finetuning import NonZeroTarget, apply_masks, compute_masks, make_objective, weight_curvature
from recprune_export.onnx import export_onnx
from recprune_export.program import Program, record_values, sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import (
    IdReader,
    Transform,
    apply_plan,
    apply_transforms,
    check_soundness,
    find_prunable_tables,
    find_rotatable_groups,
    project_tables,
    reconstruct_layers,
)
from tests.properties import half_plan
from tests.recommenders.test_recommenders import make, spec_of

Request = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def program() -> Program:
    program = capture(make("dlrm"), (spec_of("dlrm").example_request(),))
    assert program.analysis.groups
    return program


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def request_of(program: Program) -> Request:
    names = [i.name for i in program.signature.inputs]
    return dict(zip(names, sample_request_tensors(program.signature, batch=5), strict=True))


def halved(program: Program) -> Program:
    return apply_plan(program, half_plan(program.analysis))


def rotated(program: Program) -> Program:
    projected = project_tables(program).program
    rotatable = find_rotatable_groups(projected).rotatable
    widths = {name: projected.analysis.group(name).width for name in rotatable}
    assert widths
    flips = {name: Transform(torch.eye(width).double().flip(0)) for name, width in widths.items()}
    return apply_transforms(projected, rotatable, flips)


def with_zeros(program: Program) -> None:
    objective, tables = make_objective(program, ()), program.analysis.tables
    curvature = weight_curvature(program, tables, [(request_of(program), {})], objective.probe)
    apply_masks(program, compute_masks(program, tables, NonZeroTarget(10, 10), curvature))


def pruned_and_refitted(program: Program) -> None:
    student, plan = halved(program), half_plan(program.analysis)
    check_soundness(program, plan, student)
    reconstruct_layers(program, plan, student, [(request_of(program), {})] * 4)


MAKE: dict[str, Callable[[Program], Program]] = {
    "copy": Program.with_copied_parameters,
    "pruned": halved,
    "rotated and pruned": lambda program: halved(rotated(program)),
}
USE: dict[str, Callable[[Program], object]] = {
    "answers": lambda program: program(request_of(program)),
    "analysis": lambda program: program.analysis,
    "recorder": lambda program: record_values(
        program, request_of(program), [n.name for n in program.module.graph.nodes]
    ),
    "training": lambda program: program.set_training(True),
    "lifted": Program.lifted,
    "zeros": with_zeros,
    "pruning": pruned_and_refitted,
    "ids": lambda program: IdReader(program, tuple(find_prunable_tables(program)[0].values()))(request_of(program)),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.usefixtures("no_collection")
def test_a_program_is_freed_with_its_last_reference(program: Program, name: str) -> None:
    made = MAKE[name](program.with_copied_parameters())
    weights = [weakref.ref(p) for p in made.parameters().values()]
    assert all(weight() is not None for weight in weights)
    del made
    assert all(weight() is None for weight in weights)


@pytest.mark.parametrize("name", USE)
@pytest.mark.usefixtures("no_collection")
def test_no_use_of_a_program_keeps_its_weights(program: Program, name: str) -> None:
    used = program.with_copied_parameters()
    weights = [weakref.ref(p) for p in used.parameters().values()]
    USE[name](used)
    del used
    assert all(weight() is None for weight in weights)


def test_no_rewrite_rule_keeps_an_exported_graph(tmp_path: Path) -> None:
    """The graph itself is freed by the garbage collector, because its nodes refer to each other."""
    layers = capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), (torch.zeros(2, 4),))
    exported = layers.with_copied_parameters()
    weights = [weakref.ref(p) for p in exported.parameters().values()]
    export_onnx(exported, tmp_path / "model.onnx")
    del exported
    gc.collect()
    assert all(weight() is None for weight in weights)
