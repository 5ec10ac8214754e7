"""Recommenders learn labels of numbers in the units of the label, beside missing labels and weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recprune_export.data import ArrayData, LabelKind, LabelValues, Rows
from recprune_export.data.batch import ROW_WEIGHTS
from recprune_export.finetuning import CLICK_DEFAULTS, LabeledRows, make_objective
from recprune_export.program.capture import capture
from recprune_export.recommenders import InputSpec, build_recommender
from recprune_export.training._train import _Clicks, make_label_predictor

NAN = np.float32(np.nan)
SPEC = InputSpec(categorical={"user": 9, "item": 7}, labels=("stars",), value_scales={"stars": (3.5, 2.0)})
MULTI_TASK = InputSpec(categorical=SPEC.categorical, labels=("click", "stars"), value_scales=SPEC.value_scales)
ROWS = Rows(
    {"user": np.arange(6) % 5, "item": np.arange(6) % 3},
    {
        "click": np.array([0, 1, NAN, 1, 0, NAN], dtype=np.float32),
        "stars": np.array([5, NAN, 1, 2, NAN, 4], dtype=np.float32),
    },
    weights=np.array([1, 2, 0, 3, 1, 1], dtype=np.float32),
)


@pytest.mark.parametrize("name", ["two_tower", "neumf", "deepfm", "dlrm", "dcn_v2", "mmoe"])
def test_every_recommender_answers_in_the_units_of_the_label(name: str) -> None:
    plain = InputSpec(categorical=SPEC.categorical, labels=SPEC.labels)
    torch.manual_seed(0)
    scaled = build_recommender(name, SPEC, {"dim": 4, "hidden": (8,)}).eval()
    logits = build_recommender(name, plain, {"dim": 4, "hidden": (8,)}).eval()
    logits.load_state_dict(scaled.state_dict())
    request = {name: torch.from_numpy(values) for name, values in ROWS.inputs.items()}
    torch.testing.assert_close(scaled(request)["stars"], 3.5 + 2.0 * logits(request)["stars"])
    answer = make_label_predictor(scaled, SPEC)(ROWS.inputs)["stars"]
    np.testing.assert_allclose(answer, scaled(request)["stars"].detach().numpy(), rtol=1e-6)


def test_the_loss_of_several_labels_is_that_of_the_rows_that_have_them() -> None:
    torch.manual_seed(0)
    module = build_recommender("mmoe", MULTI_TASK, {"dim": 4, "hidden": (8,), "experts": 2, "tower": 4})
    loss = _Clicks.loss(module, ROWS, MULTI_TASK.value_scales)
    answer = module({name: torch.from_numpy(values) for name, values in ROWS.inputs.items()})
    click, stars, weights = (torch.from_numpy(v) for v in (ROWS.labels["click"], ROWS.labels["stars"], ROWS.weights))
    has_click, has_stars = ~click.isnan(), ~stars.isnan()
    entropy = F.binary_cross_entropy_with_logits(
        answer["click"][has_click], click[has_click], weights[has_click], reduction="sum"
    )
    errors = ((answer["stars"] - stars)[has_stars] / 2.0).square() * weights[has_stars]
    expected = entropy / weights[has_click].sum() + errors.sum() / weights[has_stars].sum()
    torch.testing.assert_close(loss, expected)


def test_a_spec_of_numbers_survives_its_dict() -> None:
    assert InputSpec.from_dict(SPEC.to_dict()) == SPEC
    assert "value_scales" not in InputSpec(labels=("click",)).to_dict()


def test_a_batch_of_a_task_holds_weights_and_the_loss_uses_them() -> None:
    torch.manual_seed(0)
    module = build_recommender("dlrm", SPEC, {"dim": 4, "hidden": (8,)}).eval()
    program = capture(module, (SPEC.example_request(),))
    values = {"stars": LabelValues.summarize(ROWS.labels["stars"])}
    objective = make_objective(program, ("stars",), values)
    assert objective.output_kinds == {"stars": "value"}
    assert objective.label_kinds == {"stars": LabelKind.NUMBER}
    rows = Rows(ROWS.inputs, {"stars": ROWS.labels["stars"]}, weights=ROWS.weights)
    task = LabeledRows(ArrayData(rows, rows, rows, label_values=values, notes=("read",)), objective, CLICK_DEFAULTS)
    assert task.notes == ("read", *objective.notes)
    ((request, labels),) = task.training_batches(seed=0)
    assert set(labels) == {"stars", ROW_WEIGHTS}
    error = (program(request)["stars"] - labels["stars"]).square()
    known = ~labels["stars"].isnan()
    weighted = (error * labels[ROW_WEIGHTS])[known].sum() / labels[ROW_WEIGHTS][known].sum()
    expected = weighted / values["stars"].variance
    torch.testing.assert_close(objective.supervised(program(request), labels), expected)
