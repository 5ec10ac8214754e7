"""Choose the rules of the exported graph for ids out of range and for large numbers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from recprune_export.data.row_source import BATCH_ROWS
from recprune_export.error_text import describe_place
from recprune_export.errors import ModelError
from recprune_export.finetuning.kept_requests import KeptRequests
from recprune_export.finetuning.task import LabeledRows, Task, run_program
from recprune_export.program.failures import FAILURES
from recprune_export.program.program import Program
from recprune_export.program.recorder import find_failing_line
from recprune_export.program.requests.input_rules import with_bad_ids
from recprune_export.program.requests.random_requests import RequestArrays
from recprune_export.program.signature import BATCH, Input, Signature

TRIED_ROWS = 8
MARGIN = 1000.0  # times the largest number of the rows: numbers of traffic do not reach the limit
WITHOUT_ROWS = 1e12  # beyond timestamps in milliseconds
RESERVE = 10.0  # outputs must be finite at this multiple of the limit, since the pruned program differs


def with_input_rules(program: Program, task: Task, bad_ids: str) -> Program:
    """Return `program` with the rules of `Input.bad_ids` and `Input.number_limit` in its signature.

    `bad_ids` is "unknown" or "error". The limit of numbers is a power of ten at least `MARGIN` times the largest number of
    the rows, or `WITHOUT_ROWS`; it is lowered if the outputs would not be finite, but not below 10 times the largest number. There is no
    limit for an input if the model returns infinity for finite numbers of it.

    Rows that a bundle keeps come with the rules that were derived from all rows.

    Raises `ModelError` for an input without a row for each row of the request.
    """
    if isinstance(task, KeptRequests):
        return program.with_signature(copy_rules(program.signature, task.rules))
    _refuse_inputs_without_rows(program.signature)
    signature = with_bad_ids(program.signature, bad_ids)
    request = task.requests(TRIED_ROWS, seed=0)
    inputs = tuple(
        replace(i, number_limit=_find_limit(program, task, request, i) if _has_numbers(i) else None)
        for i in signature.inputs
    )
    return program.with_signature(replace(signature, inputs=inputs))


def copy_rules(signature: Signature, other: Signature) -> Signature:
    """Return `signature` with the rules of another signature with the same inputs."""
    pairs = zip(signature.inputs, other.inputs, strict=True)
    inputs = (replace(i, bad_ids=given.bad_ids, number_limit=given.number_limit) for i, given in pairs)
    return replace(signature, inputs=tuple(inputs))


def _refuse_inputs_without_rows(signature: Signature) -> None:
    spec = next((i for i in signature.inputs if i.shape[:1] not in ((BATCH,), (1,))), None)  # 1: a shared input
    if spec is not None:
        raise ModelError(
            f"The input '{spec.name}' of shape {list(spec.shape)} does not have one row per row of the request: store it in the "
            "module, as a number or a buffer, or use the shape [batch, ...]."
        )


def _has_numbers(spec: Input) -> bool:
    return spec.dtype in ("float32", "float64") and (not spec.ids or None in spec.ids)


def _find_limit(program: Program, task: Task, request: RequestArrays, spec: Input) -> float | None:
    if _stays_finite(program, request, spec, math.inf):
        return None
    largest = _find_largest(task, spec)
    floor = max([10.0 * (largest or 0.0), *(float(pair[1]) for pair in spec.ids if pair is not None)])
    limit = WITHOUT_ROWS if largest is None else _round_up(MARGIN * max(largest, 1.0))
    while limit / 10.0 >= floor and limit > 1.0 and not _stays_finite(program, request, spec, RESERVE * limit):
        limit /= 10.0
    return limit


def _round_up(number: float) -> float:
    """Return the least power of ten that is not below `number`.

    >>> _round_up(1000.0), _round_up(1001.0)
    (1000.0, 10000.0)
    """
    return float(f"1e{math.ceil(math.log10(number) - 1e-9)}")


def _find_largest(task: Task, spec: Input) -> float | None:
    """Return the largest finite absolute number of an input in all rows; None if there are no rows."""
    if not isinstance(task, LabeledRows):
        return None
    batches = (
        batch for rows in (task.data.train, task.data.valid, task.data.test) for batch in rows.batches(BATCH_ROWS)
    )
    return max((_largest(rows.inputs[spec.name], spec) for rows in batches), default=0.0)


def _largest(values: np.ndarray, spec: Input) -> float:
    columns = [column for column, pair in enumerate(spec.ids) if pair is None]
    numbers = values[..., columns] if columns else values
    return float(np.abs(numbers, where=np.isfinite(numbers), out=np.zeros(numbers.shape)).max(initial=0.0))


def _stays_finite(program: Program, request: RequestArrays, spec: Input, number: float) -> bool:
    """Return whether answers that are finite without large numbers stay finite with numbers of the size `number`."""
    before = run_program(program, request)
    with np.errstate(over="ignore"):
        for tried in _replace_numbers(request[spec.name], spec, number):
            after = _run_on_numbers(program, {**request, spec.name: tried}, spec)
            if not all(_is_as_finite(before[name], after[name]) for name in before):
                return False
    return True


def _run_on_numbers(program: Program, request: RequestArrays, spec: Input) -> Mapping[str, np.ndarray]:
    """Return the outputs for numbers beyond those of the example. Raises `ModelError` if the model fails on them."""
    try:
        return run_program(program, request)
    except FAILURES as error:
        place = describe_place(find_failing_line(program, request))
        raise ModelError(
            f"The model fails on numbers in '{spec.name}' beyond those of the example{place} "
            f"({type(error).__name__}: {error}): every number in a request must be accepted, so keep values computed from it in "
            "range, for example an index with .clamp(0, rows - 1) after .long()."
        ) from error


def _is_as_finite(before: np.ndarray, after: np.ndarray) -> bool:
    return after.dtype.kind != "f" or bool(np.isfinite(after)[np.isfinite(before)].all())


def _replace_numbers(values: np.ndarray, spec: Input, number: float) -> Iterator[np.ndarray]:
    """Yield the input with large numbers in all positions, of either sign, and with one in each row."""
    is_number = np.ones(values.shape, dtype=bool)
    for column, pair in enumerate(spec.ids):
        is_number[..., column] = pair is None
    for sign in (1.0, -1.0):
        yield np.where(is_number, sign * number, values).astype(values.dtype)
    places = np.flatnonzero(is_number[0].reshape(-1)) if values.ndim else np.zeros(0, dtype=int)
    for start in range(0, len(places), max(len(values), 1)):
        single = values.copy().reshape(len(values), -1)
        for row, place in enumerate(places[start : start + len(values)]):
            single[row, place] = number if row % 2 else -number
        yield single.reshape(values.shape)
