"""Requests to validate with, from the edges of what the signature allows."""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.program.random_requests import RequestArrays, fill_input, sample_request
from recprune_export.program.signature import IdRange, Input, Signature

LARGE = 10.0  # standard deviations, or widths of what the example held
EDGE_ROWS = 3
EVERY_ID, PIECE = 1 << 13, 1 << 10


def make_edge_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return named requests from the edges.

    One row; lowest ids, where 0 is out of vocabulary, padding or an empty sequence; highest ids; numbers that are all
    zero, and numbers far out on both sides, which stay positive where the example held nothing negative.
    """

    def request(batch: int, pick: Callable[[IdRange], int], number: float) -> RequestArrays:
        def ids(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, pick(pair))

        def numbers(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, _far_out(spec, number))

        return {i.name: fill_input(i, batch, ids, numbers) for i in signature.inputs}

    return {
        "one row": sample_request(signature, 1, seed=0),
        "lowest ids, numbers zero": request(EDGE_ROWS, lambda pair: pair[0], 0.0),
        "highest ids, numbers large": request(EDGE_ROWS, lambda pair: pair[1], LARGE),
        "highest ids, numbers large and negative": request(EDGE_ROWS, lambda pair: pair[1], -LARGE),
        "one row of lowest ids": request(1, lambda pair: pair[0], 0.0),
    }


def make_every_id_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return requests that together hold each id below `EVERY_ID` of each range, in pieces of `CHUNK_ROWS` rows."""

    def request(start: int, rows: int) -> RequestArrays:
        def ids(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
            numbers = start + np.arange(shape[0])
            column = pair[0] + numbers % (pair[1] - pair[0] + 1)
            return np.broadcast_to(column.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()

        def numbers(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, 0.0 if spec.observed is None else np.mean(spec.observed))

        return {i.name: fill_input(i, rows, ids, numbers) for i in signature.inputs}

    highest = max((pair[1] - pair[0] + 1 for i in signature.inputs for pair in i.ids if pair), default=0)
    starts = range(0, min(highest, EVERY_ID), PIECE)
    return {f"ids from {start}": request(start, min(PIECE, highest - start)) for start in starts}


def repeat_rows(request: Mapping[str, np.ndarray], batch: int, start: int = 0) -> RequestArrays:
    """Return `batch` rows from `start` on, those of `request` again and again; views where there are as many."""
    if start + batch <= count_candidates(request):
        return {name: values[start : start + batch] for name, values in request.items()}
    return {name: values[(start + np.arange(batch)) % len(values)] for name, values in request.items()}


def squeeze_shared_inputs(request: Mapping[str, np.ndarray], signature: Signature) -> RequestArrays:
    """Return a request as a file of this signature takes it: the first row of what all candidates share."""
    shared = {i.name for i in signature.inputs if i.shared}
    return {name: values[:1] if name in shared else values for name, values in request.items()}


def expand_shared_inputs(request: Mapping[str, np.ndarray], signature: Signature) -> RequestArrays:
    """Return the same request with a row for each candidate of what is shared, as the program takes it."""
    shared = {i.name for i in signature.inputs if i.shared}
    rows = count_candidates(request)
    return {name: np.repeat(values, rows, axis=0) if name in shared else values for name, values in request.items()}


def count_candidates(request: Mapping[str, np.ndarray]) -> int:
    """Return the number of candidates."""
    return max((len(values) for values in request.values()), default=0)


def _far_out(spec: Input, number: float) -> float:
    if spec.observed is None:
        return number
    low, high = spec.observed
    far = (low + high) / 2 + number * (high - low)
    return max(far, low) if low >= 0 else far
