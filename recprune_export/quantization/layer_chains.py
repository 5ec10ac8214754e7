"""Layers that are faster in int8 only next to other int8 layers.

A single static layer rounds the floats of its operand and returns floats, and its ReLU is a separate operator. Between two static layers
ONNX Runtime passes integers: nothing is rounded or widened there, and the ReLU is part of the product.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from recprune_export.onnx.graph import find_only_consumer
from recprune_export.onnx.optimizer.linear_layers import Linear
from recprune_export.quantization.candidates import find_candidates, find_fused_output
from recprune_export.quantization.choose_formats import compute_speedups, geometric_mean
from recprune_export.quantization.formats.int8_layers import count_layer_bytes
from recprune_export.quantization.observers import observe
from recprune_export.quantization.quantization_constants import MAX_SLOWDOWN_FRACTION, MIN_SPEEDUP
from recprune_export.quantization.quantization_plan import FP32, INT8_STATIC, QuantizationPlan, WeightChoice
from recprune_export.quantization.timing import Stopwatch, extract_subgraph
from recprune_export.validation.latency.request_cycle import RequestCycles


def extend_layer_chains(
    model: ir.Model, plan: QuantizationPlan, requests: RequestCycles, stopwatch: Stopwatch
) -> QuantizationPlan:
    """Quantize fp32 layers next to static ones if both together are then faster, and no batch size is slower.

    A layer is timed with the static layers before and after it, if only they share the values between them. It is added if the chain is
    at least `MIN_SPEEDUP` times as fast with it, and if all static layers together add at most `MAX_SLOWDOWN_FRACTION` of a request in
    fp32 at any batch size. Layers that read inputs of the graph are not changed, because the range of the numbers of requests is unknown.
    The same times give the same plan. Time: three measurements for each fp32 layer next to a static one, and again for each layer that
    was added.
    """
    if plan.mode not in ("int8", "int4"):
        return plan
    timer = _ChainTimer(model, find_candidates(model).layers, requests, stopwatch)
    rejected: set[str] = set()
    while (name := next((n for n in timer.find_neighbors(plan) if n not in rejected), None)) is not None:
        extended = timer.quantize_layer(plan, name)
        if extended is None:
            rejected.add(name)
        else:
            plan = extended
    return plan


@dataclass(frozen=True)
class _ChainTimer:
    """Times layers together with their static neighbors."""

    model: ir.Model
    layers: Mapping[str, Linear]
    requests: RequestCycles
    stopwatch: Stopwatch

    def find_neighbors(self, plan: QuantizationPlan) -> list[str]:
        """Return the names of fp32 layers that read computed values and are next to a static layer."""
        forms = {choice.name: choice.form for choice in plan.layers}
        inputs = set(self.model.graph.inputs)
        return [
            name
            for name, layer in self.layers.items()
            if forms.get(name) == FP32 and layer.operand not in inputs and len(self._find_chain(name, plan)) > 1
        ]

    def quantize_layer(self, plan: QuantizationPlan, name: str) -> QuantizationPlan | None:
        """Return the plan with a layer in int8; None if it gains too little or a batch size becomes too slow."""
        chain = self._find_chain(name, plan)
        neighbors = [layer for layer in chain if layer != name]
        speedups = self._compare(chain, neighbors)
        speedup = geometric_mean(speedups)
        if speedup < MIN_SPEEDUP or self._is_too_slow([*_list_static(plan), name]):
            return None
        choice = next(choice for choice in plan.layers if choice.name == name)
        reason = f"with {' and '.join(neighbors)} {speedup:.2f} times as fast as in fp32; alone {choice.reason}"
        return plan.with_choice(_quantize_choice(choice, self.layers[name], reason, speedups))

    def _find_chain(self, name: str, plan: QuantizationPlan) -> list[str]:
        """Return the layer between those of its neighbors that are static, in the order of the graph."""
        static, layer = _list_static(plan), self.layers[name]
        before = [other for other in static if _feeds_only(self.layers[other], layer)]
        behind = [other for other in static if _feeds_only(layer, self.layers[other])]
        return [*before, name, *behind]

    def _compare(self, chain: list[str], neighbors: list[str]) -> dict[int, float]:
        """Return by batch size the speed-up of a chain if all of it is static instead of only the neighbors.

        Both are timed interleaved with fp32.
        """
        first, last = self.layers[chain[0]], self.layers[chain[-1]]
        subgraph = extract_subgraph(self.model, [first.operand], [find_fused_output(last)])
        operand = first.operand.name or ""
        values = {batch: [observe(self.model, [operand], cycle[:1])] for batch, cycle in self.requests.items()}
        whole, without = (
            compute_speedups(self.stopwatch(subgraph, names, (INT8_STATIC,), values), INT8_STATIC)
            for names in (tuple(chain), tuple(neighbors))
        )
        return {batch: whole[batch] / without[batch] for batch in whole}

    def _is_too_slow(self, names: list[str]) -> bool:
        """Return whether int8 layers add too much to a whole request at some batch size."""
        times = self.stopwatch(self.model, tuple(names), (INT8_STATIC,), self.requests)
        return min(compute_speedups(times, INT8_STATIC).values()) < 1.0 / (1.0 + MAX_SLOWDOWN_FRACTION)


def _list_static(plan: QuantizationPlan) -> list[str]:
    return [choice.name for choice in plan.layers if choice.form == INT8_STATIC]


def _feeds_only(layer: Linear, other: Linear) -> bool:
    """Return whether only `other` reads the result of `layer`, directly or after a ReLU."""
    result = find_fused_output(layer)
    return other.operand is result and find_only_consumer(result) is other.node


def _quantize_choice(choice: WeightChoice, layer: Linear, reason: str, speedups: Mapping[int, float]) -> WeightChoice:
    return replace(choice, form=INT8_STATIC, reason=reason, speedups=speedups, bytes=count_layer_bytes(layer))
