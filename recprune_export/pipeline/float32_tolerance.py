"""What rounding alone does to a program: in float32 no one can answer nearer to what it states than it does itself.

Deep stacks of norms, differences of large numbers and exponents of them lose more than a fixed tolerance allows. PyTorch
and ONNX Runtime then both lose that much, each in its own order of summing, and neither is wrong (Higham 2002, "Accuracy
and stability of numerical algorithms", section 1.7: a condition number times the unit roundoff).
"""

from collections.abc import Mapping

import numpy as np
import torch

from recprune_export.program.program import Program
from recprune_export.pruning.apply.masking import Float64Interpreter
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.parity import NamedOutputs, Tolerances

TWO_WAYS = 4.0  # two ways to sum are off by as much each, and one may be unluckier than the other
MOST = 100.0  # times what is allowed elsewhere: who loses more has no answers to speak of


def widen_tolerances(
    program: Program, answers: Mapping[str, NamedOutputs], requests: Mapping[str, RequestArrays], tolerances: Tolerances
) -> Tolerances:
    """Return `tolerances`, wider by what float32 loses in `program` on these requests, at most `MAX_SPARSITY` times as wide.

    `answers` are those of `program` in float32, `requests` have a row for each, in full; both under the same labels.
    """
    lost = max(
        (_lost(program, answers[label], request, tolerances) for label, request in requests.items()), default=0.0
    )
    factor = TWO_WAYS * lost
    return (
        tolerances
        if not 1.0 < factor <= MOST
        else Tolerances(tolerances.absolute * factor, tolerances.relative * factor)
    )


def _lost(program: Program, rounded: NamedOutputs, request: RequestArrays, tolerances: Tolerances) -> float:
    """By how many times of what is `tolerances` float32 is off float64; without end where it is NaN in one alone."""
    tensors = (torch.from_numpy(np.ascontiguousarray(request[i.name])) for i in program.signature.inputs)
    exact = Float64Interpreter(program)(*tensors)
    worst = 0.0
    for spec, wanted in zip(program.signature.outputs, exact, strict=True):
        found = rounded[spec.name]
        if found.dtype.kind != "f":
            continue
        wanted_here = wanted.numpy()
        finite = np.isfinite(wanted_here)
        if not np.array_equal(finite, np.isfinite(found)):
            return float("inf")
        off = np.abs(found.astype(np.float64) - wanted_here)[finite] / tolerances.allowed(wanted_here)[finite]
        worst = max(worst, float(off.max(initial=0.0)))
    return worst
