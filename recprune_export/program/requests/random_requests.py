"""Random requests that are valid for a signature."""

from collections.abc import Callable

import numpy as np

from recprune_export.program.requests.jagged_inputs import remove_elements
from recprune_export.program.signature import BATCH, IdRange, Input, Signature

RequestArrays = dict[str, np.ndarray]
IdSampler = Callable[[IdRange, tuple[int, ...]], np.ndarray]
NumberSampler = Callable[[Input, tuple[int, ...]], np.ndarray]


def sample_request(signature: Signature, batch: int, seed: int) -> RequestArrays:
    """Return `batch` rows: ids uniform in their ranges, flags uniform, other integers in the example request's range.

    Floating-point numbers are normal; if the example's range is known, they have its moments and are clipped to it. The numbers of
    elements in rows of jagged inputs are uniform between the smallest and the largest.
    """
    rng = np.random.default_rng(seed)

    def ids(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(pair[0], pair[1] + 1, size=shape)

    def numbers(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.normal(size=shape)
        if spec.observed is None:
            return values
        low, high = spec.observed
        return np.clip((low + high) / 2 + values * (high - low) / 4, low, high)

    request = {i.name: fill_input(i, batch, ids, numbers) for i in signature.inputs}
    jagged = {i.name: i.jagged.counts for i in signature.inputs if i.jagged is not None}
    counts = {name: rng.integers(low, high + 1, size=batch) for name, (low, high) in jagged.items()}
    return remove_elements(signature, request, counts) if jagged else request


def fill_input(spec: Input, batch: int, ids: IdSampler, numbers: NumberSampler) -> np.ndarray:
    """Return a tensor of `batch` rows with the shape and dtype of `spec`; `ids` and `numbers` sample its elements."""
    shape = tuple(batch if size == BATCH else int(size) for size in spec.shape)
    if len(spec.ids) == 1 and spec.ids[0] is not None:
        return ids(spec.ids[0], shape).astype(spec.dtype)
    if spec.dtype == "bool":
        return numbers(spec, shape) > 0
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        low, high = spec.observed or (0.0, 0.0)  # no declared bounds: only observed values are known to be valid
        values = ids((int(low), int(high)), shape)
        for column, (lowest, highest) in enumerate(spec.observed_columns):
            values[..., column] = ids((int(lowest), int(highest)), values.shape[:-1])
    else:
        values = numbers(spec, shape)
    by_row = values.reshape(batch, -1, len(spec.ids)) if spec.ids else values
    for column, pair in enumerate(spec.ids):  # columns of a matrix, or every position in a row of a larger tensor
        if pair is not None:
            by_row[..., column] = ids(pair, by_row.shape[:-1])
    return values.astype(spec.dtype)


def fill_valid(spec: Input, batch: int) -> np.ndarray:
    """Return `batch` rows of the lowest ids and of zeros; those of a jagged input have the most elements."""
    return fill_input(spec, batch, lambda pair, shape: np.full(shape, pair[0]), lambda _, shape: np.zeros(shape))
