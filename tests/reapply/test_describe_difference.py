"""A saved program of a plan tells other weights of its model from another model, for every recommender."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from recprune_export.pipeline import make_sampled_task, plan_pruning, rotate_channels
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import apply_plan
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.reapply import compare_architectures, compare_signatures
from recprune_export.recommenders import RECOMMENDERS, build_recommender
from recprune_export.settings import Settings
from tests.recommenders.test_recommenders import SMALL, spec_of

# Of each recommender one option that changes a layer, and nothing of its signature.
CHANGED = {
    "two_tower": {"hidden": (10, 7)},
    "neumf": {"hidden": (10, 7)},
    "deepfm": {"hidden": (10,)},
    "dlrm": {"bottom": (7, 7)},
    "dcn_v2": {"hidden": (11, 8)},
    "mmoe": {"experts": 4},
    "sasrec": {"layers": 1},
}


def make(name: str, seed: int, **changes: object) -> Program:
    torch.manual_seed(seed)
    module = build_recommender(name, spec_of(name), {**SMALL[name], **changes})
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return capture(module.eval(), (spec_of(name).example_request(),))


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"sparsity": 0.6}, id="loss"),
        pytest.param({"sparsity": 0.5, "score": "magnitude-l2"}, id="l2", marks=pytest.mark.slow),
    ],
)
def test_weights_of_another_seed_have_no_difference_and_another_layer_has(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    settings = Settings(width_multiple=1, **options)  # type: ignore[arg-type]
    program = make(name, 0)
    plan = plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning)).plan
    apply_plan(rotate_channels(program, plan), plan).save(tmp_path / "model.pt2")
    saved, other = Program.load(tmp_path / "model.pt2"), make(name, 1)
    assert compare_signatures(saved.signature, other.signature) is None
    assert compare_architectures(saved, plan, insert_projections(other, plan.projection_plan)) is None
    changed = make(name, 1, **CHANGED[name])
    assert compare_signatures(saved.signature, changed.signature) is None
    assert compare_architectures(saved, plan, changed)


def test_signatures_are_compared_but_for_what_follows_from_rows() -> None:
    signature = make("deepfm", 0).signature
    first, *others = signature.inputs
    ruled = replace(signature, inputs=(replace(first, bad_ids=(0,), number_limit=3.0, observed=(0.0, 1.0)), *others))
    assert compare_signatures(signature, ruled) is None
    for changed, said in (
        (replace(first, dtype="int32"), "has the dtype int32, and in the bundle int64"),
        (replace(first, name="other"), "the input 'other' stands in the place of"),
        (replace(first, ids=((0, 3),)), "has the range of ids 0 to 3, and in the bundle 0 to"),
        (replace(first, shape=("batch", 2)), "has the shape ['batch', 2], and in the bundle ['batch']"),
    ):
        assert said in (compare_signatures(signature, replace(signature, inputs=(changed, *others))) or "")
    fewer = replace(signature, inputs=tuple(others))
    surplus = replace(signature, outputs=(*signature.outputs, replace(signature.outputs[0], name="buy")))
    assert compare_signatures(signature, fewer)
    assert compare_signatures(signature, surplus) == "the new model alone has the output 'buy'"
    assert compare_signatures(surplus, signature) == "the bundle alone has the output 'buy'"
