"""Parity: two ways to run a model give the same outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.validation.edge_requests import RequestArrays, count_candidates

NamedOutputs = Mapping[str, np.ndarray]
ModelFunction = Callable[[RequestArrays], NamedOutputs]


SMALL = 1e-2  # numbers below it have their relative error reported against it: near zero a relative error says nothing
FEW_ROWS = 0.01  # of all rows, in which the last of the best items may tie with one that is not shown
APART = 7  # powers of two without a number between two scales of one output, such as scores and the mask beside them
EXPONENTS = 2200  # more than a double has
PIECE = 1 << 20  # numbers
FEW_NUMBERS = 3  # so many near zero are chance, and no scale of their own


@dataclass(frozen=True)
class Tolerances(ToDictMixin):
    """A number passes when |candidate - reference| <= absolute + relative · |reference|.

    For |reference| stands the root mean square of the output where that is more: scores near zero are differences of
    larger numbers, and rounded like those. Of numbers of that scale alone: -1e9, by which models mask items, says nothing of
    how scores are rounded.
    """

    absolute: float = 1e-5
    relative: float = 1e-5

    def allowed(self, reference: np.ndarray) -> np.ndarray:
        """Return by how much each number of an output may differ; whole numbers may not.

        >>> Tolerances(0.0, 0.01).allowed(np.array([0.0, 1.0, 7.0])).round(3).tolist()
        [0.041, 0.041, 0.07]
        >>> Tolerances(0.0, 0.01).allowed(np.array([3.0, 4.0, 5.0, -1e9]))[:3].round(3).tolist()
        [0.041, 0.041, 0.05]
        """
        if reference.dtype.kind != "f":
            return np.zeros(reference.shape)
        sizes = np.abs(reference.astype(np.float64))
        return self.absolute + self.relative * np.maximum(sizes, _typical(sizes))


def _typical(sizes: np.ndarray) -> np.ndarray | float:
    """Return for each number the root mean square of those of its scale; where there is one scale, a single number."""
    flat = sizes.reshape(-1)
    counts, squares = np.zeros(EXPONENTS), np.zeros(EXPONENTS)
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        piece = piece[np.isfinite(piece)]
        own = _exponents(piece)
        counts += np.bincount(own, minlength=EXPONENTS)
        squares += np.bincount(own, weights=np.square(piece), minlength=EXPONENTS)
    held = np.flatnonzero(counts)
    scales = [int(b) for a, b in pairwise(held) if a and b - a > APART and counts[: a + 1].sum() >= FEW_NUMBERS]
    bounds = [0, *scales, EXPONENTS]
    means = [np.sqrt(squares[a:b].sum() / max(counts[a:b].sum(), 1)) for a, b in pairwise(bounds)]
    return np.repeat(means, np.diff(bounds))[_exponents(sizes)] if scales else float(means[0])


def _exponents(sizes: np.ndarray) -> np.ndarray:
    """The powers of two next to some sizes, from 1 on; 0 for what is zero, or is no number."""
    known = np.isfinite(sizes) & (sizes > 0)
    return np.where(known, np.frexp(np.where(known, sizes, 1.0))[1] + EXPONENTS // 2, 0)


@dataclass(frozen=True)
class OutputParity:
    """The largest errors of one output over all requests, and the request of the largest absolute one.

    `not_finite` counts the numbers that are NaN or infinite in both: the model itself answers so.
    """

    name: str
    dtype: str
    max_absolute: float
    max_relative: float
    worst: str
    not_finite: int = 0


@dataclass(frozen=True)
class ParityReport(ToDictMixin):
    """What was compared; `failures` has a sentence for each thing that is not equal."""

    ENCODED = ("outputs", "tolerances", "rows", "requests", "failures", "passed")

    outputs: tuple[OutputParity, ...]
    tolerances: Tolerances
    rows: int
    requests: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Nothing differs."""
        return not self.failures


def check_parity(
    reference: ModelFunction,
    candidate: ModelFunction,
    requests: Mapping[str, RequestArrays],
    tolerances: Tolerances = Tolerances(),
) -> ParityReport:
    """Compare `candidate` with `reference` on each request: names, dtype, shape, NaN, then the numbers."""
    errors: dict[str, OutputParity] = {}
    failures: list[str] = []
    rows = 0
    for label, request in requests.items():
        rows += count_candidates(request)
        expected = reference(request)
        try:
            actual = candidate(request)
        except Exception as error:  # whatever the runtime raises is a failure of the candidate
            failures.append(f"'{label}' cannot be answered: {type(error).__name__}: {error}")
            continue
        if set(expected) != set(actual):
            failures.append(f"'{label}' is answered with {sorted(actual)} instead of {sorted(expected)}.")
            continue
        for name, wanted in expected.items():
            found = resolve_ties(expected, name, actual[name], tolerances)
            failure = _mismatch(name, label, wanted, found, tolerances)
            if failure:
                failures.append(failure)
            if wanted.shape == found.shape:
                errors[name] = _worse(errors.get(name), _errors(name, label, wanted, found))
    return ParityReport(tuple(errors.values()), tolerances, rows, tuple(requests), tuple(failures))


def resolve_ties(expected: NamedOutputs, name: str, actual: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """Return the whole numbers `actual` for output `name`, as they are expected wherever equal scores may change places.

    Ids of the best items, [B, K], come with their scores, [B, K], in order. Where two that follow each other are as near as
    rounding, or NaN, either id may come first; the last of a few rows may tie with one that is not shown. Or they come with
    the scores of all items, [B, N]: then an id may stand for another that has the same score there. Other outputs, and ids
    without scores, are returned as they are.

    >>> expected = {"items": np.array([[7, 3, 5, 1]]), "scores": np.array([[0.9, 0.5, 0.5, 0.1]], dtype=np.float32)}
    >>> resolve_ties(expected, "items", np.array([[7, 5, 3, 1]]), Tolerances()).tolist()
    [[7, 3, 5, 1]]
    >>> resolve_ties(expected, "items", np.array([[3, 7, 5, 1]]), Tolerances()).tolist()
    [[3, 7, 5, 1]]
    """
    wanted = expected[name]
    if wanted.dtype.kind not in "iu" or wanted.shape != actual.shape or wanted.ndim < 2:
        return actual
    tied = np.zeros(wanted.shape, dtype=bool)
    for scores in (
        own for own in expected.values() if own.dtype.kind == "f" and _are_of_all_items(own, wanted, actual)
    ):
        one, other = (np.take_along_axis(scores, ids.astype(np.int64), -1) for ids in (wanted, actual))
        with np.errstate(invalid="ignore"):
            tied |= (
                (np.abs(one - other) <= 2 * tolerances.allowed(one))
                | (one == other)
                | (np.isnan(one) & np.isnan(other))
            )
    for scores in (own for own in expected.values() if own.dtype.kind == "f" and own.shape == wanted.shape):
        with np.errstate(invalid="ignore"):
            steps = np.diff(scores.astype(np.float64), axis=-1)
            if (steps > 0).any() and (steps < 0).any():
                continue  # no order
            near = ~(np.abs(steps) > 2 * (tolerances.absolute + tolerances.relative * np.abs(scores[..., 1:])))
        tied |= _in_another_order(wanted, actual, near)
        tied |= np.isnan(scores)
        tied[..., -1] |= (wanted[..., -1] != actual[..., -1]).mean() <= FEW_ROWS
    return np.where(tied, wanted, actual).astype(actual.dtype)


def _in_another_order(wanted: np.ndarray, found: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Where ids [..., K] stand in runs of equal scores that hold the same ids in both, or that reach the last place.

    `near` [..., K - 1] says which neighbours have the same score. Behind the last place there may be more of a run.
    """
    places = wanted.shape[-1]
    rows = [array.reshape(-1, array.shape[-1]) for array in (wanted, found, near)]
    allowed = np.zeros((len(rows[0]), places), dtype=bool)
    for row in np.flatnonzero((rows[0] != rows[1]).any(axis=-1)):
        ends = [*np.flatnonzero(~rows[2][row]) + 1, places]
        for start, end in pairwise([0, *ends]):
            one, other = (sorted(ids[row, start:end].tolist()) for ids in rows[:2])
            allowed[row, start:end] = end - start > 1 and (one == other or end == places)
    return allowed.reshape(wanted.shape)


def _are_of_all_items(scores: np.ndarray, *ids: np.ndarray) -> bool:
    of_rows = scores.ndim == ids[0].ndim and scores.shape[:-1] == ids[0].shape[:-1] and scores.shape != ids[0].shape
    return of_rows and all(each.size and each.min() >= 0 and each.max() < scores.shape[-1] for each in ids)


def _mismatch(name: str, label: str, wanted: np.ndarray, found: np.ndarray, tolerances: Tolerances) -> str | None:
    where = f"Output '{name}' of '{label}'"
    if wanted.dtype != found.dtype:
        return f"{where} is {found.dtype} instead of {wanted.dtype}."
    if wanted.shape != found.shape:
        return f"{where} has shape {list(found.shape)} instead of {list(wanted.shape)}."
    odd = ~np.isfinite(wanted)
    if not np.array_equal(wanted[odd], found[odd], equal_nan=True) or not np.isfinite(found[~odd]).all():
        return f"{where} is NaN or infinite where the reference is not, or the other way round."
    allowed = tolerances.allowed(wanted)[~odd]
    difference = np.abs(wanted[~odd].astype(np.float64) - found[~odd].astype(np.float64))
    if (difference > allowed).any():
        return (
            f"{where} differs by up to {difference.max():.2e}, allowed are {tolerances.absolute:g} "
            f"and {tolerances.relative:g} of its size."
        )
    return None


def _errors(name: str, label: str, wanted: np.ndarray, found: np.ndarray) -> OutputParity:
    finite = np.isfinite(wanted) & np.isfinite(found)
    reference = wanted[finite].astype(np.float64)
    difference = np.abs(reference - found[finite].astype(np.float64))
    relative = difference / np.maximum(np.abs(reference), SMALL)
    odd = int((~finite).sum())
    absolute, worst_relative = (float(error.max()) if error.size else 0.0 for error in (difference, relative))
    return OutputParity(name, str(found.dtype), absolute, worst_relative, label, odd)


def _worse(before: OutputParity | None, now: OutputParity) -> OutputParity:
    if before is None:
        return now
    worst = now.worst if now.max_absolute > before.max_absolute else before.worst
    absolute, relative = max(before.max_absolute, now.max_absolute), max(before.max_relative, now.max_relative)
    return OutputParity(now.name, now.dtype, absolute, relative, worst, before.not_finite + now.not_finite)
