"""Parity: two ways to run a model give the same outputs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recprune_export.validation.requests import Request, rows_of

Answer = Mapping[str, np.ndarray]
Answers = Callable[[Request], Answer]


SMALL = 1e-2  # numbers below it have their relative error reported against it: near zero a relative error says nothing


@dataclass(frozen=True)
class Tolerances:
    """A number passes when |candidate - reference| <= absolute + relative · |reference|."""

    absolute: float = 1e-5
    relative: float = 1e-5

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return asdict(self)


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
class ParityReport:
    """What was compared; `failures` has a sentence for each thing that is not equal."""

    outputs: tuple[OutputParity, ...]
    tolerances: Tolerances
    rows: int
    requests: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Nothing differs."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "passed": self.passed}


def check_parity(
    reference: Answers, candidate: Answers, requests: Mapping[str, Request], tolerances: Tolerances = Tolerances()
) -> ParityReport:
    """Compare `candidate` with `reference` on each request: names, dtype, shape, NaN, then the numbers."""
    errors: dict[str, OutputParity] = {}
    failures: list[str] = []
    rows = 0
    for label, request in requests.items():
        rows += rows_of(request)
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
            failure = _mismatch(name, label, wanted, actual[name], tolerances)
            if failure:
                failures.append(failure)
            if wanted.shape == actual[name].shape:
                errors[name] = _worse(errors.get(name), _errors(name, label, wanted, actual[name]))
    return ParityReport(tuple(errors.values()), tolerances, rows, tuple(requests), tuple(failures))


def _mismatch(name: str, label: str, wanted: np.ndarray, found: np.ndarray, tolerances: Tolerances) -> str | None:
    where = f"Output '{name}' of '{label}'"
    if wanted.dtype != found.dtype:
        return f"{where} is {found.dtype} instead of {wanted.dtype}."
    if wanted.shape != found.shape:
        return f"{where} has shape {list(found.shape)} instead of {list(wanted.shape)}."
    odd = ~np.isfinite(wanted)
    if not np.array_equal(wanted[odd], found[odd], equal_nan=True) or not np.isfinite(found[~odd]).all():
        return f"{where} is NaN or infinite where the reference is not, or the other way round."
    wanted, found = wanted[~odd].astype(np.float64), found[~odd].astype(np.float64)
    difference = np.abs(wanted - found)
    allowed = tolerances.absolute + tolerances.relative * np.abs(wanted)
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
