"""Do the rows of a request answer for themselves, so that a server may put rows of several requests into one batch?"""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.program.signature import BATCH, Input, Output, Signature

Arrays = Mapping[str, np.ndarray]


def rows_are_independent(
    signature: Signature, answer: Callable[[dict[str, np.ndarray]], Arrays], request: Arrays, response: Arrays
) -> bool:
    """Whether every tensor has the batch, and nothing else that varies, on axis 0, and rows answer alike alone and together.

    `response` is the answer to the whole of `request`, which is tried row by row at its ends and in two halves.
    """
    tensors: tuple[Input | Output, ...] = (*signature.inputs, *signature.outputs)
    if not all(t.shape and t.shape[0] == BATCH and all(isinstance(n, int) for n in t.shape[1:]) for t in tensors):
        return False
    rows = len(next(iter(request.values())))
    ends = {(0, 1), (rows - 1, rows), (0, rows // 2), (rows // 2, rows)}
    parts = [slice(start, stop) for start, stop in ends if start < stop]
    return all(_alike(answer({n: v[part] for n, v in request.items()}), response, part) for part in parts)


def _alike(part: Arrays, whole: Arrays, rows: slice) -> bool:
    return all(
        part[name].shape == values[rows].shape
        and np.allclose(part[name], values[rows], rtol=1e-3, atol=1e-4 * _size(values), equal_nan=True)
        for name, values in whole.items()
    )


def _size(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)]) if values.size else values
    return float(finite.max()) if finite.size else 1.0
