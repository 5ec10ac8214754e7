"""Parity: whether two ways to run a model give the same outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.validation.edge_requests import RequestArrays, count_candidates

NamedOutputs = Mapping[str, np.ndarray]
ModelFunction = Callable[[RequestArrays], NamedOutputs]


SMALL = 1e-2  # lower bound of the denominator of relative errors, which are meaningless near zero
FEW_ROWS = 0.01  # of all rows; in these the last of the best items may tie with an item that is not returned
SCALE_GAP = 7  # the number of unused powers of two between two scales of one output, such as scores and mask values
EXPONENTS = 2200  # more than a double has
CHUNK = 1 << 20  # numbers
FEW_NUMBERS = 3  # fewer numbers near zero occur by chance and are not a scale


@dataclass(frozen=True)
class Tolerances(ToDictMixin):
    """A number passes when |candidate - reference| <= absolute + relative · |reference|.

    If the root mean square of the output is larger, it replaces |reference|: scores near zero are differences of larger numbers, with
    their rounding errors. It is computed over numbers of the same scale: the value -1e9, with which models mask items, says nothing about
    the rounding of scores.
    """

    absolute: float = 1e-5
    relative: float = 1e-5

    def allowed(self, reference: np.ndarray) -> np.ndarray:
        """Return the allowed difference of each number of an output; 0 for integers.

        >>> Tolerances(0.0, 0.01).allowed(np.array([0.0, 1.0, 7.0])).round(3).tolist()
        [0.041, 0.041, 0.07]
        >>> Tolerances(0.0, 0.01).allowed(np.array([3.0, 4.0, 5.0, -1e9]))[:3].round(3).tolist()
        [0.041, 0.041, 0.05]
        """
        if reference.dtype.kind != "f":
            return np.zeros(reference.shape)
        sizes = np.abs(reference.astype(np.float64))
        return self.absolute + self.relative * np.maximum(sizes, _compute_scales(sizes))


def _compute_scales(sizes: np.ndarray) -> np.ndarray | float:
    """Return the root mean square of the numbers of the same scale, for each number; a single one for a single scale."""
    flat = sizes.reshape(-1)
    counts, squares = np.zeros(EXPONENTS), np.zeros(EXPONENTS)
    for start in range(0, len(flat), CHUNK):
        chunk = flat[start : start + CHUNK]
        chunk = chunk[np.isfinite(chunk)]
        exponents = _exponents(chunk)
        counts += np.bincount(exponents, minlength=EXPONENTS)
        squares += np.bincount(exponents, weights=np.square(chunk), minlength=EXPONENTS)
    used_exponents = np.flatnonzero(counts)
    scales = [
        int(b) for a, b in pairwise(used_exponents) if a and b - a > SCALE_GAP and counts[: a + 1].sum() >= FEW_NUMBERS
    ]
    bounds = [0, *scales, EXPONENTS]
    means = [np.sqrt(squares[a:b].sum() / max(counts[a:b].sum(), 1)) for a, b in pairwise(bounds)]
    return np.repeat(means, np.diff(bounds))[_exponents(sizes)] if scales else float(means[0])


def _exponents(sizes: np.ndarray) -> np.ndarray:
    """Return the binary exponents of some sizes, from 1 on; 0 for zero, NaN and infinity."""
    known = np.isfinite(sizes) & (sizes > 0)
    return np.where(known, np.frexp(np.where(known, sizes, 1.0))[1] + EXPONENTS // 2, 0)


@dataclass(frozen=True)
class OutputParity:
    """The largest errors of one output over all requests, and the request of the largest absolute one.

    `not_finite` counts the numbers that are NaN or infinite in both, since the model returns them.
    """

    name: str
    dtype: str
    max_absolute: float
    max_relative: float
    worst: str
    not_finite: int = 0


@dataclass(frozen=True)
class ParityReport(ToDictMixin):
    """The compared outputs; `failures` has a sentence for each difference."""

    ENCODED = ("outputs", "tolerances", "rows", "requests", "failures", "passed")

    outputs: tuple[OutputParity, ...]
    tolerances: Tolerances
    rows: int
    requests: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return not self.failures


def check_parity(
    reference: ModelFunction,
    candidate: ModelFunction,
    requests: Mapping[str, RequestArrays],
    tolerances: Tolerances = Tolerances(),
    of_requests: Mapping[str, Tolerances] = MappingProxyType({}),
) -> ParityReport:
    """Compare `candidate` with `reference` on each request: names, dtype, shape, NaN, then the numbers.

    `of_requests` are tolerances of single requests, by their label.
    """
    errors: dict[str, OutputParity] = {}
    failures: list[str] = []
    rows = 0
    for label, request in requests.items():
        rows += count_candidates(request)
        expected = reference(request)
        try:
            actual = candidate(request)
        except Exception as error:  # any exception of the runtime is a failure of the candidate
            failures.append(f"'{label}' fails: {type(error).__name__}: {error}")
            continue
        if set(expected) != set(actual):
            failures.append(f"'{label}' returns {sorted(actual)} instead of {sorted(expected)}.")
            continue
        for name, expected_values in expected.items():
            allowed = of_requests.get(label, tolerances)
            actual_values = resolve_ties(expected, name, actual[name], allowed)
            failure = _describe_mismatch(name, label, expected_values, actual_values, allowed)
            if failure:
                failures.append(failure)
            if expected_values.shape == actual_values.shape:
                errors[name] = _merge_worst(
                    errors.get(name), _measure_errors(name, label, expected_values, actual_values)
                )
    return ParityReport(tuple(errors.values()), tolerances, rows, tuple(requests), tuple(failures))


def resolve_ties(expected: NamedOutputs, name: str, actual: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """Return the ids `actual`, integers or strings, of output `name`, replaced by the expected ones if a tie of scores explains the
    difference.

    Ids of the best items, [B, K], come with their scores, [B, K], in order. Where two consecutive scores differ by no more
    than rounding, or are NaN, either id may come first; the last id of a few rows may tie with one that is not returned.
    If they come with the scores of all items, [B, N], an id may replace another one with the same score. Other outputs, and ids without
    scores, are returned unchanged.

    >>> expected = {"items": np.array([[7, 3, 5, 1]]), "scores": np.array([[0.9, 0.5, 0.5, 0.1]], dtype=np.float32)}
    >>> resolve_ties(expected, "items", np.array([[7, 5, 3, 1]]), Tolerances()).tolist()
    [[7, 3, 5, 1]]
    >>> resolve_ties(expected, "items", np.array([[3, 7, 5, 1]]), Tolerances()).tolist()
    [[3, 7, 5, 1]]
    """
    expected_ids = expected[name]
    if expected_ids.dtype.kind not in "iuU" or expected_ids.shape != actual.shape or expected_ids.ndim < 2:
        return actual
    tied = np.zeros(expected_ids.shape, dtype=bool)
    for scores in (
        output
        for output in expected.values()
        if output.dtype.kind == "f" and not is_text(expected_ids) and _score_all_items(output, expected_ids, actual)
    ):
        expected_scores, actual_scores = (
            np.take_along_axis(scores, ids.astype(np.int64), -1) for ids in (expected_ids, actual)
        )
        with np.errstate(invalid="ignore"):
            tied |= (
                (np.abs(expected_scores - actual_scores) <= 2 * tolerances.allowed(expected_scores))
                | (expected_scores == actual_scores)
                | (np.isnan(expected_scores) & np.isnan(actual_scores))
            )
    for scores in (
        output for output in expected.values() if output.dtype.kind == "f" and output.shape == expected_ids.shape
    ):
        with np.errstate(invalid="ignore"):
            steps = np.diff(scores.astype(np.float64), axis=-1)
            if (steps > 0).any() and (steps < 0).any():
                continue  # no order
            near = ~(np.abs(steps) > 2 * (tolerances.absolute + tolerances.relative * np.abs(scores[..., 1:])))
        tied |= _find_reordered_ties(expected_ids, actual, near)
        tied |= np.isnan(scores)
        tied[..., -1] |= (expected_ids[..., -1] != actual[..., -1]).mean() <= FEW_ROWS
    return np.where(tied, expected_ids, actual).astype(
        np.result_type(expected_ids, actual) if is_text(actual) else actual.dtype
    )


def is_text(values: np.ndarray) -> bool:
    """Return whether an array holds strings."""
    return values.dtype.kind == "U"


def _find_reordered_ties(expected: np.ndarray, actual: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return where ids [..., K] are in runs of equal scores with the same ids in both, or in a run at the last place.

    `near` [..., K - 1]: whether neighbors have the same score. A run may continue beyond the last position.
    """
    count = expected.shape[-1]
    rows = [array.reshape(expected.size // count, array.shape[-1]) for array in (expected, actual, near)]
    allowed = np.zeros((len(rows[0]), count), dtype=bool)
    for row in np.flatnonzero((rows[0] != rows[1]).any(axis=-1)):
        ends = [*np.flatnonzero(~rows[2][row]) + 1, count]
        for start, end in pairwise([0, *ends]):
            expected_run, actual_run = (sorted(ids[row, start:end].tolist()) for ids in rows[:2])
            allowed[row, start:end] = end - start > 1 and (expected_run == actual_run or end == count)
    return allowed.reshape(expected.shape)


def _score_all_items(scores: np.ndarray, *ids: np.ndarray) -> bool:
    matches_rows = (
        scores.ndim == ids[0].ndim and scores.shape[:-1] == ids[0].shape[:-1] and scores.shape != ids[0].shape
    )
    return matches_rows and all(values.size and values.min() >= 0 and values.max() < scores.shape[-1] for values in ids)


def _describe_mismatch(
    name: str, label: str, expected: np.ndarray, actual: np.ndarray, tolerances: Tolerances
) -> str | None:
    output = f"Output '{name}' of '{label}'"
    texts = is_text(expected) and is_text(actual)
    if expected.dtype != actual.dtype and not texts:
        return f"{output} is {actual.dtype} instead of {expected.dtype}."
    if expected.shape != actual.shape:
        return f"{output} has shape {list(actual.shape)} instead of {list(expected.shape)}."
    if texts:
        differ = expected != actual
        return f"{output} has {differ.sum():,} of {differ.size:,} strings that differ." if differ.any() else None
    not_finite = ~np.isfinite(expected)
    if (
        not np.array_equal(expected[not_finite], actual[not_finite], equal_nan=True)
        or not np.isfinite(actual[~not_finite]).all()
    ):
        return f"{output} and the reference are not NaN or infinite in the same places."
    allowed = tolerances.allowed(expected)[~not_finite]
    difference = np.abs(expected[~not_finite].astype(np.float64) - actual[~not_finite].astype(np.float64))
    if (difference > allowed).any():
        return (
            f"{output} differs by up to {difference.max():.2e}, allowed are {tolerances.absolute:g} "
            f"and {tolerances.relative:g} of its size."
        )
    return None


def _measure_errors(name: str, label: str, expected: np.ndarray, actual: np.ndarray) -> OutputParity:
    if is_text(expected):
        return OutputParity(name, "str", 0.0, 0.0, label)
    finite = np.isfinite(expected) & np.isfinite(actual)
    reference = expected[finite].astype(np.float64)
    difference = np.abs(reference - actual[finite].astype(np.float64))
    relative = difference / np.maximum(np.abs(reference), SMALL)
    not_finite = int((~finite).sum())
    absolute, worst_relative = (float(error.max()) if error.size else 0.0 for error in (difference, relative))
    return OutputParity(name, str(actual.dtype), absolute, worst_relative, label, not_finite)


def _merge_worst(previous: OutputParity | None, current: OutputParity) -> OutputParity:
    if previous is None:
        return current
    worst = current.worst if current.max_absolute > previous.max_absolute else previous.worst
    absolute, relative = (
        max(previous.max_absolute, current.max_absolute),
        max(previous.max_relative, current.max_relative),
    )
    return OutputParity(
        current.name, current.dtype, absolute, relative, worst, previous.not_finite + current.not_finite
    )
