"""Every rewrite, on whole models: the answers stay, and a graph that it does not fit stays as it was."""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx import PASSES, REWRITES, Pass, count_weights, fill_shapes, make_in_memory_session
from recprune_export.onnx._translate import translate
from recprune_export.onnx.optimizer import TOLERANCE, largest_relative_difference, share_inputs
from recprune_export.program import BATCH, Program, sample_request
from recprune_export.program.capture import capture
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender
from tests.properties import no_zeros

CLICKS = InputSpec(
    categorical={"user": 40, "item": 30, "type": 5, "place": 6, "day": 7},
    multi_valued={"tags": 9},
    lengths={"tags": 4},
    n_numeric=3,
    labels=("click",),
)
SPECS = {
    "sasrec": InputSpec(items=25, max_length=6, labels=("next_item",)),
    "mmoe": InputSpec(**{**vars(CLICKS), "labels": ("click", "buy")}),
}
SMALL = {
    "dlrm": {"dim": 6, "hidden": (10, 8), "bottom": (7,)},
    "mmoe": {"dim": 4, "hidden": (10, 8), "experts": 3, "tower": 5},
    "sasrec": {"dim": 8, "layers": 2, "heads": 2, "width": 12},
}
CORPORA = [Path(__file__).parents[3] / "shared/third_party/corpus.py"]
CORPORA += [Path(path) for path in os.environ.get("RECPRUNE_CORPORA", "").split(os.pathsep) if path]


@cache
def recommender(name: str) -> tuple[ir.Model, Program]:
    spec = SPECS.get(name, CLICKS)
    small = SMALL.get(name, {"dim": 6, "hidden": (10, 8)})
    program = capture(no_zeros(build_recommender(name, spec, small)), (spec.example_request(),))
    return plain(program), program


def plain(program: Program) -> ir.Model:
    """The graph before any rewrite."""
    model = translate(program)
    for each in PASSES:
        each(model)
    return model


def requests(program: Program) -> list[list[np.ndarray]]:
    return [list(sample_request(program.signature, rows, seed=rows).values()) for rows in (1, 5)]


def assert_each_proves_itself(model: ir.Model, program: Program) -> None:
    """Apply the rewrites one after the other, each to what the ones before made."""
    asked = requests(program)
    wanted = [make_in_memory_session(model)(request) for request in asked]
    parameters = _total(model)
    for each in REWRITES:
        changed = assert_proves_itself(each, model, asked, wanted)
        if changed is not None:
            model = changed
            assert _total(model) <= parameters + 64, each.__name__  # a shift may need a bias of its own


def assert_proves_itself(
    each: Pass, model: ir.Model, asked: list[list[np.ndarray]], wanted: list[list[np.ndarray]]
) -> ir.Model | None:
    """Return the rewritten copy; None where the graph stayed as it was."""
    copy, before = model.clone(), _bytes(model)
    if not each(copy):
        assert _bytes(copy) == before, each.__name__
        return None
    RemoveUnusedNodesPass()(copy)
    fill_shapes(copy)
    run = make_in_memory_session(copy)
    for request, answer in zip(asked, wanted, strict=True):
        assert largest_relative_difference(answer, run(request)) <= TOLERANCE, each.__name__
    return copy


def assert_shares(model: ir.Model, program: Program) -> None:
    """Share each input by itself."""
    batched = [i for i, spec in enumerate(program.signature.inputs) if spec.shape and spec.shape[0] == BATCH]
    if len(batched) < 2:
        return
    request = list(sample_request(program.signature, 5, seed=1).values())
    whole = make_in_memory_session(model)
    for shared in batched:
        once = model.clone()
        share_inputs(once, [shared])
        RemoveUnusedNodesPass()(once)
        one = [array[:1] if i == shared else array for i, array in enumerate(request)]
        full = [np.repeat(array, 5, axis=0) if i == shared else array for i, array in enumerate(one)]
        assert largest_relative_difference(whole(full), make_in_memory_session(once)(one)) <= TOLERANCE


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _total(model: ir.Model) -> int:
    parts = count_weights(model)
    return parts.tables.parameters + parts.rest.parameters


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_rewrites_of_a_reference_recommender(name: str) -> None:
    assert_each_proves_itself(*recommender(name))


@pytest.mark.parametrize("each", REWRITES, ids=lambda each: each.__name__)
def test_a_rewrite_alone_on_every_reference_recommender(each: Pass) -> None:
    for name in RECOMMENDERS:
        model, program = recommender(name)
        asked = requests(program)
        run = make_in_memory_session(model)
        assert_proves_itself(each, model, asked, [list(run(request)) for request in asked])


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_shared_inputs_of_a_reference_recommender(name: str) -> None:
    assert_shares(*recommender(name))


def corpus(path: Path) -> ModuleType:
    """Import a corpus from its file."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = loaded
        spec.loader.exec_module(loaded)
    return sys.modules[path.stem]


@pytest.mark.slow
@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)
def test_rewrites_of_recommenders_that_others_wrote(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    torch.set_num_threads(1)
    tried, missing, failures = 0, set(), []
    for name in corpus(path).REGISTRY:
        try:
            made, inputs, *_ = corpus(path).build(name)
        except ImportError as error:
            missing.add(error.name)
            continue
        arguments: tuple[Any, ...] = ((), inputs) if isinstance(inputs, dict) else (tuple(inputs),)
        try:
            program = capture(made, *arguments)
            model = plain(program)
        except Exception:  # the models are anybody's, and what cannot be captured has no graph to rewrite
            continue
        tried += 1
        try:
            assert_each_proves_itself(model, program)
            assert_shares(model, program)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    if not tried:
        pytest.skip(f"none of the libraries of {path.name} is installed: {', '.join(sorted(map(str, missing)))}")
    assert not failures
