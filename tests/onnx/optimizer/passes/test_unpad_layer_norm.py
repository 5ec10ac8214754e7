"""Norms over channels of which some were removed."""

import numpy as np
import pytest

from recprune_export.onnx import count_weights, make_in_memory_session
from recprune_export.onnx.graph import BITS
from recprune_export.onnx.optimizer import unpad_layer_norm
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten, weights_of

M, N = 3, 8
WEIGHTS = {
    "pads": numbers(0, 0, 0, 0, 0, N - M), "gain": floats(N), "shift": floats(N, seed=1),
    "begin": numbers(0), "end": numbers(M), "last": numbers(-1), "step": numbers(1),
}  # fmt: skip
NORM = "p = Pad(x, pads) l = LayerNormalization<axis = -1, epsilon = 0.01>(p, gain, shift) "
TEXT = f"g (float[batch, 5, {M}] x) => (float[batch, 5, {M}] y) {{ {NORM} y = Slice(l, begin, end, last, step) }}"


def norm(x: np.ndarray, channels: int) -> np.ndarray:
    """The definition, in float64."""
    whole = np.concatenate([x, np.zeros((*x.shape[:-1], channels - x.shape[-1]))], -1).astype(np.float64)
    centered = whole - whole.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 0.01)
    return (normed * WEIGHTS["gain"] + WEIGHTS["shift"])[..., : x.shape[-1]]


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centered", "a mean far from 0"])
def test_the_norm_is_that_over_all_channels(offset: float) -> None:
    x = floats(4, 5, M) + np.float32(offset)
    found = rewritten(unpad_layer_norm, graph(TEXT, **WEIGHTS), [[x], [np.zeros((1, 5, M), np.float32)]])
    assert not operators(found).keys() & {"Pad", "LayerNormalization", "Slice"}
    (answer,) = make_in_memory_session(found)([x])
    np.testing.assert_allclose(answer, norm(x, N), rtol=1e-5, atol=1e-5)


def test_the_layers_that_read_it_take_gain_and_shift_in() -> None:
    text = (
        f"g (float[batch, 5, {M}] x) => (float[batch, 5, 4] y, float[batch, 5, 2] z)"
        f" {{ {NORM} s = Slice(l, begin, end, last, step) a = MatMul(s, w) y = Add(a, b) z = MatMul(s, v) }}"
    )
    model = graph(text, **WEIGHTS, w=floats(M, 4), b=floats(4), v=floats(M, 2))
    found = rewritten(unpad_layer_norm, model, [[floats(2, 5, M)]])
    assert operators(found)["MatMul"] == 4  # centering, sum of squares, and the two layers


@pytest.mark.parametrize(
    "change",
    [{"pads": numbers(0, 0, 1, 0, 0, N - M - 1)}, {"end": numbers(M - 1)}, {"begin": numbers(1)}, {"last": numbers(1)}],
    ids=["zeros before", "fewer channels", "other channels", "another axis"],
)
def test_what_does_not_fit_is_left_alone(change: dict[str, np.ndarray]) -> None:
    text = TEXT.replace(f"[batch, 5, {M}] y", "[batch, a, c] y")
    assert_left_alone(unpad_layer_norm, graph(text, **(WEIGHTS | change)))


def test_a_norm_that_is_read_whole_as_well_is_left_alone() -> None:
    text = TEXT.replace("=> (", f"=> (float[batch, 5, {N}] l, ")
    assert_left_alone(unpad_layer_norm, graph(text, **WEIGHTS))


def test_zeros_of_the_layers_that_read_it_stay() -> None:
    weight = floats(M, 4)
    weight[0, 1] = weight[2, 3] = 0.0
    text = f"g (float[batch, 5, {M}] x) => (float[batch, 5, 4] y) {{ {NORM} s = Slice(l, begin, end, last, step) y = MatMul(s, w) }}"
    found = rewritten(unpad_layer_norm, graph(text, **WEIGHTS, w=weight), [[floats(2, 5, M)]])
    (folded,) = [array for array in weights_of(found).values() if array.shape == weight.shape]
    np.testing.assert_array_equal(folded == 0.0, weight == 0.0)


def test_the_matrices_of_a_norm_are_no_parameters() -> None:
    model = graph(TEXT, **WEIGHTS)
    found = rewritten(unpad_layer_norm, model, [[floats(2, 5, M)]])
    assert count_weights(found).rest.parameters == 2 * M  # gain and shift of the remaining channels


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_few_levels_stay_as_they_are(bits: int) -> None:
    text = f"g (float[batch, 5, {M}] x) => (float[batch, 5, 4] y) {{ {NORM} s = Slice(l, begin, end, last, step) y = MatMul(s, w) }}"
    model = graph(text, **WEIGHTS, w=floats(M, 4))
    model.graph.initializers["w"].meta[BITS] = bits
    found = rewritten(unpad_layer_norm, model, [[floats(2, 5, M)]])
    (weight,) = [value for value in found.graph.initializers.values() if tuple(value.shape or ()) == (M, 4)]
    assert weight.meta[BITS] == bits
    assert np.array_equal(weights_of(found)[weight.name or ""], floats(M, 4)) == (bits < 8)
