"""A layer in fp32 beside one in int8 follows it where both together are faster."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.quantization.layer_chains import extend_layer_chains
from recprune_export.quantization.quantization_plan import FP32, INT8_STATIC, QuantizationPlan, WeightChoice
from recprune_export.quantization.timing import Stopwatch, Times, measure_times
from recprune_export.validation import RequestCycles
from tests.onnx.graphs import floats, graph

CHAIN = (
    "g (float[batch, 8] x) => (float[batch, 4] y)"
    " { a = Gemm(x, first) b = Relu(a) c = Gemm(b, second) d = Relu(c) e = Gemm(d, third) f = Relu(e) y = Gemm(f, fourth) }"
)
REQUESTS: RequestCycles = {batch: [{"x": floats(batch, 8)}] for batch in (1, 16)}


def chain(text: str = CHAIN) -> ir.Model:
    weights = {
        "first": floats(8, 8),
        "second": floats(8, 8, seed=1),
        "third": floats(8, 8, seed=2),
        "fourth": floats(8, 4, seed=3),
    }
    return graph(text, **weights)


def plan(*static: str) -> QuantizationPlan:
    forms = {name: INT8_STATIC if name in static else FP32 for name in ("first", "second", "third", "fourth")}
    layers = tuple(WeightChoice(name, (8, 8), form, "", {}, (256, 256)) for name, form in forms.items())
    return QuantizationPlan("int8", layers, ())


def faster_together(whole_request: float = 0.9, gain: float = 0.5) -> Stopwatch:
    """Say that each layer in int8 takes `gain` of the time, and a whole request at batch 1 `whole_request`."""

    def stopwatch(part: ir.Model, name: str | tuple[str, ...], forms: Sequence[str], requests: RequestCycles) -> Times:
        is_whole = {"first", "fourth"} <= part.graph.initializers.keys()
        times = {batch: gain ** len(name) for batch in requests}
        return {FP32: dict.fromkeys(requests, 1.0), INT8_STATIC: times | ({1: whole_request} if is_whole else {})}

    return stopwatch


def static_layers(found: QuantizationPlan) -> list[str]:
    return [choice.name for choice in found.layers if choice.form == INT8_STATIC]


def test_layers_follow_a_static_one_in_both_directions_but_not_to_the_input() -> None:
    found = extend_layer_chains(chain(), plan("third"), REQUESTS, faster_together())
    assert static_layers(found) == ["second", "third", "fourth"]
    added = next(choice for choice in found.layers if choice.name == "second")
    assert added.speedups == {1: 2.0, 16: 2.0}
    assert "with third 2.00 times" in added.reason
    assert added.bytes == (256, 64 + 8)


def test_without_a_static_layer_nothing_follows() -> None:
    assert extend_layer_chains(chain(), plan(), REQUESTS, faster_together()) == plan()


@pytest.mark.parametrize("stopwatch", [faster_together(whole_request=1.03), faster_together(gain=0.97)])
def test_a_layer_stays_where_a_batch_size_loses_or_the_gain_is_small(stopwatch: Stopwatch) -> None:
    assert extend_layer_chains(chain(), plan("third"), REQUESTS, stopwatch) == plan("third")


def test_a_result_that_others_read_ends_the_chain() -> None:
    text = CHAIN.replace("y)", "y, float[batch, 8] d)")
    found = extend_layer_chains(chain(text), plan("third"), REQUESTS, faster_together())
    assert static_layers(found) == ["third", "fourth"]


def test_several_weights_are_timed_in_one_graph() -> None:
    times = measure_times(chain(), ("second", "third"), (INT8_STATIC,), {4: [{"x": floats(4, 8)}] * 3})
    assert times.keys() == {FP32, INT8_STATIC}
    assert all(np.isfinite(milliseconds) for by_batch in times.values() for milliseconds in by_batch.values())
