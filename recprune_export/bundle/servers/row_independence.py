"""Test whether the rows of a request are independent, so that a server may batch rows of several requests."""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.program.requests.jagged_inputs import is_packed
from recprune_export.program.signature import BATCH, Input, Output, Signature

Arrays = Mapping[str, np.ndarray]


def rows_are_independent(
    signature: Signature, answer: Callable[[dict[str, np.ndarray]], Arrays], request: Arrays, response: Arrays
) -> bool:
    """Return whether only axis 0 of every tensor varies, with the batch, and rows give the same outputs separately and together.

    `response` contains the outputs for the whole `request`; its first row, last row and halves are run separately.
    """
    if any(is_packed(i) for i in signature.inputs):
        return False  # a batch of several requests would have to join the elements and the ends of rows
    tensors: tuple[Input | Output, ...] = (*signature.inputs, *signature.outputs)
    if not all(t.shape and t.shape[0] == BATCH and all(isinstance(n, int) for n in t.shape[1:]) for t in tensors):
        return False
    count = len(next(iter(request.values())))
    ends = {(0, 1), (count - 1, count), (0, count // 2), (count // 2, count)}
    slices = [slice(start, stop) for start, stop in ends if start < stop]
    return all(_alike(answer({n: v[rows] for n, v in request.items()}), response, rows) for rows in slices)


def _alike(answer: Arrays, whole: Arrays, rows: slice) -> bool:
    return all(
        answer[name].shape == values[rows].shape
        and np.allclose(answer[name], values[rows], rtol=1e-3, atol=1e-4 * _size(values), equal_nan=True)
        for name, values in whole.items()
    )


def _size(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)]) if values.size else values
    return float(finite.max()) if finite.size else 1.0
