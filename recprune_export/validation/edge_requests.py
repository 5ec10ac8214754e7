"""Validation requests from the edges of the ranges of a signature."""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.data.list_columns import find_present
from recprune_export.program.requests.jagged_inputs import remove_elements
from recprune_export.program.requests.random_requests import RequestArrays, fill_input, sample_request
from recprune_export.program.signature import ERROR, IdRange, Input, Signature

LARGE = 10.0  # standard deviations, or widths of the range of the example
EDGE_ROWS = 3
INFINITE_NUMBERS = "infinite numbers"  # the label of a request
OUT_OF_RANGE_ROWS = 5
BAD_ID_ROWS, SAMPLE_ROWS = 4, 8
EVERY_ID, CHUNK_ROWS = 1 << 13, 1 << 10


def make_edge_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return named requests from the edges of the signature's ranges.

    One row; lowest ids, where 0 is out of vocabulary, padding or an empty sequence; highest ids; numbers that are all zero, and large
    numbers of both signs, but only positive ones if the example has no negative numbers. If the signature has rules for them, also ids
    out of range and infinite numbers; and rows without elements of jagged inputs.
    """

    def request(batch: int, pick: Callable[[IdRange], int], number: float) -> RequestArrays:
        def ids(id_range: IdRange, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, pick(id_range))

        def numbers(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, _make_large_number(spec, number))

        return {i.name: fill_input(i, batch, ids, numbers) for i in signature.inputs}

    return {
        "one row": sample_request(signature, 1, seed=0),
        "lowest ids, numbers zero": request(EDGE_ROWS, lambda id_range: id_range[0], 0.0),
        "highest ids, numbers large": request(EDGE_ROWS, lambda id_range: id_range[1], LARGE),
        "highest ids, numbers large and negative": request(EDGE_ROWS, lambda id_range: id_range[1], -LARGE),
        "one row of lowest ids": request(1, lambda id_range: id_range[0], 0.0),
        **make_empty_requests(signature),
        **make_out_of_range_requests(signature),
    }


def make_empty_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return requests in which rows have no elements of the jagged inputs that may be empty; one row, and some of several."""
    may_be_empty = [i.name for i in signature.inputs if i.jagged is not None and i.jagged.counts[0] == 0]
    if not may_be_empty:
        return {}
    requests = {}
    for label, batch, empty in (
        ("one row without elements", 1, slice(None)),
        ("rows without elements", EDGE_ROWS, slice(1, None)),
    ):
        rows = sample_request(signature, batch, seed=3)
        counts = {i.name: find_present(rows[i.name]).sum(1) for i in signature.inputs if i.jagged is not None}
        for name in may_be_empty:
            counts[name][empty] = 0
        requests[label] = remove_elements(signature, rows, counts)
    return requests


def make_out_of_range_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return requests with ids and numbers out of range, for inputs whose graph replaces or clips them.

    Each row of "ids out of range" has one kind of them in all such inputs: -1, the first beyond the table, the largest and
    the smallest integer; the last row is valid, and so is the last of "infinite numbers", after infinity of either sign.
    """
    valid = sample_request(signature, OUT_OF_RANGE_ROWS, seed=2)
    replacing = [i for i in signature.inputs if any(isinstance(bad, int) for bad in i.bad_ids)]
    clipping = [i for i in signature.inputs if i.number_limit is not None]
    requests = {
        "ids out of range": (replacing, _put_bad_ids),
        INFINITE_NUMBERS: (clipping, _put_infinity),
    }
    return {
        label: {**valid, **{i.name: put(i, valid[i.name].copy()) for i in inputs}}
        for label, (inputs, put) in requests.items()
        if inputs
    }


def make_refused_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return requests of one row that the graph refuses, each with one id before or beyond the range of one input."""
    requests: dict[str, RequestArrays] = {}
    for spec in signature.inputs:
        for column, (pair, bad) in enumerate(zip(spec.ids, spec.bad_ids, strict=False)):
            if pair is None or bad != ERROR:
                continue
            # In rows of a jagged input a negative id is absent.
            for number in (pair[1] + 1,) if spec.jagged is not None else (pair[0] - 1, pair[1] + 1):
                request = sample_request(signature, 1, seed=2)
                smallest, largest = _integer_bounds(request[spec.name].dtype)
                if smallest <= number <= largest:
                    by_column = request[spec.name] if len(spec.ids) > 1 else request[spec.name][..., None]
                    by_column[..., column] = number
                    requests[f"the id {number} in '{spec.name}'"] = request
    return requests


def make_out_of_range_sample(signature: Signature, request: Mapping[str, np.ndarray]) -> RequestArrays | None:
    """Return the first rows of `request` with ids out of range, then with infinite numbers; None without rules for them.

    The single row of a shared input has one kind of id out of range, and no infinite number.
    """
    replacing = [i for i in signature.inputs if any(isinstance(bad, int) for bad in i.bad_ids)]
    clipping = [i for i in signature.inputs if i.number_limit is not None]
    if not replacing and not clipping:
        return None
    sample = {name: values[:SAMPLE_ROWS].copy() for name, values in request.items()}
    for spec in replacing:
        _put_bad_ids(spec, sample[spec.name])
    for spec in clipping:
        _put_infinity(spec, sample[spec.name][BAD_ID_ROWS:])
    return sample


def _put_bad_ids(spec: Input, values: np.ndarray) -> np.ndarray:
    columns = values if len(spec.ids) > 1 else values[..., None]
    smallest, largest = _integer_bounds(values.dtype)
    for column, (pair, bad) in enumerate(zip(spec.ids, spec.bad_ids, strict=True)):
        if pair is not None and isinstance(bad, int):
            high = min(pair[1] + 1, largest)
            kinds = [pair[0] - 1, high, largest, smallest] if spec.jagged is None else [high, largest]
            for row, number in enumerate(kinds[: len(values)]):
                columns[row, ..., column] = max(number, smallest)
    return values


def _integer_bounds(dtype: np.dtype) -> tuple[int, int]:
    if dtype.kind == "f":
        return -(1 << 24), 1 << 24  # exact in float32
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _put_infinity(spec: Input, values: np.ndarray) -> np.ndarray:
    columns = [column for column, pair in enumerate(spec.ids) if pair is None] if spec.ids else slice(None)
    by_column = values if values.ndim > 1 else values[..., None]
    for row, number in enumerate((np.inf, -np.inf)[: len(values)]):
        by_column[row, ..., columns] = number
    return values


def make_every_id_requests(signature: Signature) -> dict[str, RequestArrays]:
    """Return requests of `CHUNK_ROWS` rows that together hold each id below `EVERY_ID` of each range."""

    def request(start: int, rows: int) -> RequestArrays:
        def ids(id_range: IdRange, shape: tuple[int, ...]) -> np.ndarray:
            numbers = start + np.arange(shape[0])
            column = id_range[0] + numbers % (id_range[1] - id_range[0] + 1)
            return np.broadcast_to(column.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()

        def numbers(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, 0.0 if spec.observed is None else np.mean(spec.observed))

        return {i.name: fill_input(i, rows, ids, numbers) for i in signature.inputs}

    highest = max(
        (id_range[1] - id_range[0] + 1 for i in signature.inputs for id_range in i.ids if id_range), default=0
    )
    starts = range(0, min(highest, EVERY_ID), CHUNK_ROWS)
    return {f"ids from {start}": request(start, min(CHUNK_ROWS, highest - start)) for start in starts}


def repeat_rows(request: Mapping[str, np.ndarray], batch: int, start: int = 0) -> RequestArrays:
    """Return `batch` rows of `request` from `start` on, repeated if there are fewer; views if there are enough."""
    if start + batch <= count_candidates(request):
        return {name: values[start : start + batch] for name, values in request.items()}
    return {name: values[(start + np.arange(batch)) % len(values)] for name, values in request.items()}


def squeeze_shared_inputs(request: Mapping[str, np.ndarray], signature: Signature) -> RequestArrays:
    """Return a request in the form that the file takes: inputs shared by all candidates keep only their first row."""
    shared = {i.name for i in signature.inputs if i.shared}
    return {name: values[:1] if name in shared else values for name, values in request.items()}


def expand_shared_inputs(request: Mapping[str, np.ndarray], signature: Signature) -> RequestArrays:
    """Return a request in the form that the program takes: shared inputs repeated for each candidate."""
    shared = {i.name for i in signature.inputs if i.shared}
    rows = count_candidates(request)
    return {name: np.repeat(values, rows, axis=0) if name in shared else values for name, values in request.items()}


def count_candidates(request: Mapping[str, np.ndarray]) -> int:
    """Return the number of candidates of a request."""
    return max((len(values) for values in request.values()), default=0)


def _make_large_number(spec: Input, number: float) -> float:
    if spec.observed is None:
        return number
    low, high = spec.observed
    value = (low + high) / 2 + number * (high - low)
    return max(value, low) if low >= 0 else value
