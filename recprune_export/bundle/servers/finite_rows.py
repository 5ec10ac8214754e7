"""The rows of a golden request that JSON can represent: those without NaN and infinity."""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.data.list_columns import find_present
from recprune_export.program.requests.jagged_inputs import to_file_arrays
from recprune_export.program.signature import BATCH, Signature

Arrays = Mapping[str, np.ndarray]


def take_finite_rows(
    signature: Signature, answer: Callable[[dict[str, np.ndarray]], Arrays], request: Arrays, response: Arrays
) -> tuple[Arrays, Arrays] | None:
    """Return the rows with finite inputs and outputs, as the arrays of a file, and the `answer` to only these rows.

    `request` has the inputs of the signature, `response` is the answer to it. None if no row remains, or if a value that belongs to no
    single row is not finite.
    """
    batched = [i.name for i in signature.inputs if i.shape[:1] == (BATCH,)]
    if batched:
        finite = np.ones(len(request[batched[0]]), dtype=bool)
        for spec in signature.inputs:
            if spec.name in batched:
                absent = None if spec.jagged is None else ~find_present(request[spec.jagged.present])
                finite &= _find_finite_rows(request[spec.name], absent)
        for output in signature.outputs:
            if output.shape[:1] == (BATCH,):
                finite &= _find_finite_rows(response[output.name])
        if not finite.any():
            return None
        if not finite.all():
            request = {name: values[finite] if name in batched else values for name, values in request.items()}
            response = answer(dict(request))
    arrays = to_file_arrays(signature, request)
    return (arrays, response) if all(map(_is_finite, (*arrays.values(), *response.values()))) else None


def _find_finite_rows(values: np.ndarray, absent: np.ndarray | None = None) -> np.ndarray:
    if values.dtype.kind != "f":
        return np.ones(len(values), dtype=bool)
    finite = np.isfinite(values)
    if absent is not None:
        finite |= absent.reshape(*absent.shape, *[1] * (values.ndim - absent.ndim))
    return np.asarray(finite.reshape(len(values), -1).all(axis=1))


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
