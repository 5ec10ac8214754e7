"""Measure the rounding error of a program in float32, by which two exact implementations of it may differ.

Deep stacks of norms, differences of large numbers and their exponentials lose more precision than a fixed tolerance allows. PyTorch and
ONNX Runtime then have equally large errors, because they sum in different orders, and neither is wrong (Higham 2002, "Accuracy and
stability of numerical algorithms", section 1.7: a condition number times the unit roundoff). For few rows the error of PyTorch may be
small by chance; then runs in float64 with randomly rounded operands are also used (Vignes 1993, "A stochastic arithmetic for reliable
scientific computation", section 3).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors
from recprune_export.pruning.apply.masking import Float64Interpreter
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.parity import NamedOutputs, Tolerances

TWO_WAYS = 4.0  # both orders of summation have such errors, and one may be larger by chance
MOST = 100.0  # times the usual tolerance: beyond it, the outputs are meaningless
ROUNDED_RUNS, UNIT_ROUNDOFF = 4, 2.0**-24
ROUNDINGS = 64  # of the partial sums of a value; their errors add up like random ones
MOST_IF_INFINITE = 1e9  # runs for numbers that are clipped to values far beyond those of traffic


def widen_tolerances(
    program: Program,
    answers: Mapping[str, NamedOutputs],
    requests: Mapping[str, RequestArrays],
    tolerances: Tolerances,
    most: float = MOST,
    rounded_runs: int = 0,
) -> Tolerances:
    """Return `tolerances`, wider by the rounding error of `program` on these requests, at most `most` times as wide.

    `answers` are those of `program` in float32, `requests` have a complete row for each answer; both have the same keys. With
    `rounded_runs` the error is the largest of PyTorch's error and the errors of this number of runs in float64 with randomly rounded
    values.
    """
    error = max(
        (
            _rounding_error(program, answers[label], request, tolerances, rounded_runs)
            for label, request in requests.items()
        ),
        default=0.0,
    )
    factor = TWO_WAYS * error
    return (
        tolerances
        if not 1.0 < factor <= most
        else Tolerances(tolerances.absolute * factor, tolerances.relative * factor)
    )


def _rounding_error(
    program: Program, rounded: NamedOutputs, request: RequestArrays, tolerances: Tolerances, rounded_runs: int
) -> float:
    """Return the error of float32 against float64 in multiples of `tolerances`; infinite where NaN differs."""
    arrays = to_program_tensors(program.signature, request)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    exact = Float64Interpreter(program)(*tensors)
    worst = 0.0
    runs = (_RoundedInterpreter(program, seed)(*tensors) for seed in range(rounded_runs))
    for actual in ([torch.from_numpy(rounded[o.name]) for o in program.signature.outputs], *runs):
        for one, other in zip(actual, exact, strict=True):
            worst = max(worst, _largest_error(one.numpy(), other.numpy(), tolerances))
    return worst


def _largest_error(actual: np.ndarray, expected: np.ndarray, tolerances: Tolerances) -> float:
    if actual.dtype.kind != "f":
        return 0.0
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(actual)):
        return float("inf")
    error = np.abs(actual.astype(np.float64) - expected)[finite] / tolerances.allowed(expected)[finite]
    return float(error.max(initial=0.0))


class _RoundedInterpreter(Float64Interpreter):
    """Runs a program in float64 and changes each value and weight at random, by up to the rounding error of `ROUNDINGS` sums in
    float32."""

    def __init__(self, program: Program, seed: int) -> None:
        super().__init__(program)
        self._generator = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if not isinstance(value, Tensor) or value.dtype != torch.float64:
            return value
        off = torch.rand(value.shape, generator=self._generator, dtype=torch.float64) * 2.0 - 1.0
        return value * (1.0 + ROUNDINGS**0.5 * UNIT_ROUNDOFF * off)
