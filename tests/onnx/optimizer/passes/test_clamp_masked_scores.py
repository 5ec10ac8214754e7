"""Masked scores, which exp makes subnormal."""

import numpy as np
import pytest

from recprune_export.onnx import make_in_memory_session, rewrite
from recprune_export.onnx.optimizer import clamp_masked_scores
from tests.onnx.graphs import assert_left_alone, floats, graph, operators, rewritten

L = 6
LOWEST = np.array(np.finfo(np.float32).min)
CONSTANTS = {"zero": np.array(0, np.float32), "low": LOWEST}
SUM = "m = Where(allowed, zero, low) z = Add(s, m)"
CHOICE = "z = Where(allowed, s, low)"


def masked(chain: str, **constants: np.ndarray) -> object:
    text = f"g (float[batch, {L}] s, bool[batch, {L}] allowed) => (float[batch, {L}] y) {{ {chain} y = Softmax(z) }}"
    return graph(text, **(CONSTANTS | constants))


def allowed(rows: int) -> np.ndarray:
    """Masks of which the first allows nothing, and the last everything."""
    mask = np.random.default_rng(rows).random((rows, L)) < 0.5
    mask[0], mask[-1] = False, True
    return mask


@pytest.mark.parametrize("low", [LOWEST, np.array(-1e9, np.float32)], ids=["lowest", "-1e9"])
@pytest.mark.parametrize("chain", [SUM, CHOICE], ids=["sum", "choice"])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_masked_positions_get_nothing(chain: str, low: np.ndarray, scale: float) -> None:
    model, request = masked(chain, low=low), [floats(9, L) * np.float32(scale), allowed(9)]
    found = rewritten(clamp_masked_scores, model, [request])
    (before,), (after,) = (make_in_memory_session(each)(request) for each in (model, found))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-27)


def test_a_constant_mask_counts() -> None:
    causal = np.where(np.tril(np.ones((L, L), bool)), np.float32(0), LOWEST)
    text = f"g (float[batch, {L}, {L}] s) => (float[batch, {L}, {L}] y) {{ z = Add(s, m) y = Softmax(z) }}"
    rewritten(clamp_masked_scores, graph(text, m=causal), [[floats(2, L, L)]])


def test_scores_without_a_mask_are_left_alone() -> None:
    assert_left_alone(clamp_masked_scores, masked("z = Add(s, bias)", bias=floats(L)))
    assert_left_alone(clamp_masked_scores, masked("z = Where(allowed, s, zero)"))


def test_it_is_estimated_to_be_faster_where_there_are_scores_enough() -> None:
    text = (
        "g (float[batch, 2, 50, 50] s, bool[batch, 1, 50, 50] allowed) => (float[batch, 2, 50, 50] y)"
        f" {{ {SUM} y = Softmax(z) }}"
    )
    mask = np.random.default_rng(0).random((2, 1, 50, 50)) < 0.5
    found, (report,) = rewrite(
        graph(text, **CONSTANTS), (clamp_masked_scores,), [[floats(2, 2, 50, 50), mask]], (1, 256)
    )
    assert report.accepted
    assert operators(found)["Max"] == 1
    assert report.after[256] < 0.5 * report.before[256]
