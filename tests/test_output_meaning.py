"""Each kind of output has a sentence, a column and, where it is one, a probability."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recprune_export.bundle import verify
from recprune_export.finetuning.objective import OutputKind
from recprune_export.output_meaning import OutputMeaning
from recprune_export.pipeline import make_sampled_task
from recprune_export.pipeline.build_manifest import find_meanings
from recprune_export.program.loading import load_program
from tests.jobs import QUICK

KINDS = get_args(OutputKind)
LOGITS = arrays.arrays(np.float32, (5, 3), elements=st.floats(-1e4, 1e4, width=32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", ["clicked", None])
def test_every_kind_has_a_sentence(kind: str, label: str | None) -> None:
    meaning = OutputMeaning(kind, label)
    assert meaning.meaning != kind
    assert label in meaning.meaning if label and kind not in ("ranking", "scores") else "{" not in meaning.meaning
    assert OutputMeaning.from_dict(meaning.to_dict()) == meaning


@given(LOGITS, st.sampled_from(["logit", "classes"]))
def test_probabilities_keep_the_order_and_lie_between_0_and_1(logits: np.ndarray, kind: str) -> None:
    meaning = OutputMeaning(kind, "clicked")
    values = meaning.to_probability(logits)
    assert (values.shape, values.dtype) == (logits.shape, logits.dtype)
    assert ((values >= 0) & (values <= 1)).all()
    order = np.argsort(logits, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(values, order, -1), axis=-1) >= 0).all()
    assert meaning.probability is not None
    again = meaning.probability.to_probability(values)
    np.testing.assert_array_equal(again, values)
    if kind == "classes":
        np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-5)


def test_a_checkpoint_without_rows_has_its_own_labels(checkpoint: Path) -> None:
    loaded = load_program(checkpoint)
    assert loaded.checkpoint is not None
    program = loaded.program
    task = make_sampled_task(program, QUICK.finetuning)
    outcome = SimpleNamespace(
        pruned=SimpleNamespace(program=program),
        exported=SimpleNamespace(pruned=SimpleNamespace(signature=program.signature)),
    )
    assert find_meanings(outcome, task, loaded.checkpoint.label_values) == {
        "clicked": OutputMeaning("logit", "clicked")
    }  # type: ignore[arg-type]
    assert find_meanings(outcome, task, {}) == {"clicked": OutputMeaning("value")}  # type: ignore[arg-type]


def test_a_bundle_says_what_its_score_is(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["scores"]["clicked"]["kind"] == "logit"
    assert manifest["scores"]["clicked"]["label"] == "clicked"
    for file in ("README.md", "report.html"):
        assert "sigmoid(logit)" in (bundle / file).read_text()
    verify(bundle)
