"""Measure the rounding error of a program in float32, by which two exact implementations of it may differ.

Deep stacks of norms, differences of large numbers and exponents of them lose more than a fixed tolerance allows. PyTorch
and ONNX Runtime then both lose that much, each in its own order of summing, and neither is wrong (Higham 2002, "Accuracy
and stability of numerical algorithms", section 1.7: a condition number times the unit roundoff).
"""

from collections.abc import Mapping

import numpy as np
import torch

from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors
from recprune_export.pruning.apply.masking import Float64Interpreter
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.parity import NamedOutputs, Tolerances

TWO_WAYS = 4.0  # two ways to sum are off by as much each, and one may be unluckier than the other
MOST = 100.0  # times what is allowed elsewhere: who loses more has no answers to speak of
MOST_IF_INFINITE = 1e9  # of numbers that are clipped to far beyond those of traffic


def widen_tolerances(
    program: Program,
    answers: Mapping[str, NamedOutputs],
    requests: Mapping[str, RequestArrays],
    tolerances: Tolerances,
    most: float = MOST,
) -> Tolerances:
    """Return `tolerances`, wider by the rounding error of `program` on these requests, at most `most` times as wide.

    `answers` are those of `program` in float32, `requests` have a row for each, in full; both under the same labels.
    """
    error = max(
        (_rounding_error(program, answers[label], request, tolerances) for label, request in requests.items()),
        default=0.0,
    )
    factor = TWO_WAYS * error
    return (
        tolerances
        if not 1.0 < factor <= most
        else Tolerances(tolerances.absolute * factor, tolerances.relative * factor)
    )


def _rounding_error(program: Program, rounded: NamedOutputs, request: RequestArrays, tolerances: Tolerances) -> float:
    """Return the error of float32 against float64 in multiples of `tolerances`; infinite where NaN differs."""
    arrays = to_program_tensors(program.signature, request)
    tensors = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    exact = Float64Interpreter(program)(*tensors)
    worst = 0.0
    for spec, tensor in zip(program.signature.outputs, exact, strict=True):
        actual, expected = rounded[spec.name], tensor.numpy()
        if actual.dtype.kind != "f":
            continue
        finite = np.isfinite(expected)
        if not np.array_equal(finite, np.isfinite(actual)):
            return float("inf")
        error = np.abs(actual.astype(np.float64) - expected)[finite] / tolerances.allowed(expected)[finite]
        worst = max(worst, float(error.max(initial=0.0)))
    return worst
