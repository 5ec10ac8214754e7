"""Stopwatches that say what a test wants to hear."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from recprune_export.quantization.quantization_plan import FP32
from recprune_export.quantization.timing import Stopwatch, Times
from recprune_export.validation import RequestCycles


def favouring(*favourites: str, slow: Mapping[str, float] | None = None) -> Stopwatch:
    """Say that `favourites` take half of the time of fp32, other forms twice; at batch 1 weights in `slow` take so much more."""

    def stopwatch(part: ir.Model, name: str | tuple[str, ...], forms: Sequence[str], requests: RequestCycles) -> Times:
        times: Times = {FP32: dict.fromkeys(requests, 1.0)}
        for form in forms:
            times[form] = dict.fromkeys(requests, 0.5 if form in favourites else 2.0)
            if slow and name in slow:
                times[form][1] = 1.0 + slow[name]
        return times

    return stopwatch
