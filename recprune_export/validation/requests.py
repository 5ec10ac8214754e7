"""Requests to validate with: drawn at random, and from the edges of what the signature allows."""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.program.signature import BATCH, IdRange, Input, Signature

Request = dict[str, np.ndarray]

LARGE = 10.0  # standard deviations
EDGE_ROWS = 3


def sample_request(signature: Signature, batch: int, seed: int) -> Request:
    """Return `batch` rows: ids uniform in their ranges, numbers normal, flags even."""
    rng = np.random.default_rng(seed)

    def ids(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(pair[0], pair[1] + 1, size=shape)

    return {i.name: _fill(i, batch, ids, lambda shape: rng.normal(size=shape)) for i in signature.inputs}


def edge_requests(signature: Signature) -> dict[str, Request]:
    """Return named requests from the edges.

    One row; lowest ids, where 0 is out of vocabulary, padding or an empty sequence; highest ids; numbers that are all
    zero, and numbers far out on both sides.
    """

    def request(batch: int, pick: Callable[[IdRange], int], number: float) -> Request:
        def ids(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, pick(pair))

        return {i.name: _fill(i, batch, ids, lambda shape: np.full(shape, number)) for i in signature.inputs}

    return {
        "one row": sample_request(signature, 1, seed=0),
        "lowest ids, numbers zero": request(EDGE_ROWS, lambda pair: pair[0], 0.0),
        "highest ids, numbers large": request(EDGE_ROWS, lambda pair: pair[1], LARGE),
        "highest ids, numbers large and negative": request(EDGE_ROWS, lambda pair: pair[1], -LARGE),
        "one row of lowest ids": request(1, lambda pair: pair[0], 0.0),
    }


def repeated(request: Mapping[str, np.ndarray], batch: int) -> Request:
    """Return `batch` rows, those of `request` again and again."""
    return {name: values[np.arange(batch) % len(values)] for name, values in request.items()}


def _fill(
    spec: Input,
    batch: int,
    ids: Callable[[IdRange, tuple[int, ...]], np.ndarray],
    numbers: Callable[[tuple[int, ...]], np.ndarray],
) -> np.ndarray:
    shape = tuple(batch if size == BATCH else int(size) for size in spec.shape)
    if len(spec.ids) == 1 and spec.ids[0] is not None:
        return ids(spec.ids[0], shape).astype(spec.dtype)
    values = numbers(shape)
    if spec.dtype == "bool":
        return values > 0
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        values = np.zeros(shape)  # whole numbers that no table bounds: only 0 is surely allowed
    for column, pair in enumerate(spec.ids):
        if pair is not None:
            values[..., column] = ids(pair, shape[:-1])
    return values.astype(spec.dtype)
