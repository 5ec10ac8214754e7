"""The constants of the cost model that fit measurements best: one factor for each, by least squares in log space.

An estimate is a sum of terms, each of which is proportional to one constant; so the factors f minimize Σ (log Σ f·term - log measured)² +
`KEEP` Σ (log f)², where the second sum keeps constants unchanged that no case determines.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from operator_cases import Measured

KEEP = 1e-3
RESAMPLES = 100
SHARED = ("traffic", "lookups", "calls")  # terms with one constant for all operators
STEPS = 60


@dataclass(frozen=True)
class Factor:
    """What a constant should be multiplied with, and between which values nine in ten resamples of the cases lie."""

    factor: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the cases say that the constant should change."""
        return not self.low <= 1.0 <= self.high


def fit(cases: Sequence[Measured], seed: int = 0) -> Mapping[str, Factor]:
    """Return a factor for each constant that a case depends on, by the term and, where it is not shared, the operator."""
    names = sorted({_constant(case, term) for case in cases for term, value in vars(case.terms).items() if value})
    terms = np.zeros((len(cases), len(names)))
    for row, case in enumerate(cases):
        for term, value in vars(case.terms).items():
            if value:
                terms[row, names.index(_constant(case, term))] += value
    figures = np.stack([case.seconds for case in cases])
    best = _factors(terms, np.median(figures, axis=1))
    rng = np.random.default_rng(seed)
    others = []
    for _ in range(RESAMPLES):  # other cases, and of each another part of its turns
        rows = rng.integers(0, len(cases), len(cases))
        others.append(_factors(terms[rows], figures[rows, rng.integers(0, figures.shape[1], len(cases))]))
    low, high = np.percentile(others, (5, 95), axis=0)
    return {name: Factor(*map(float, values)) for name, *values in zip(names, best, low, high, strict=True)}


def ratios(cases: Sequence[Measured], factors: Mapping[str, Factor] | None = None) -> Mapping[str, Mapping[int, float]]:
    """Return measured : estimated by operator and batch size, the geometric mean of its cases; with `factors`, as fitted."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        by = {} if factors is None else {name: each.factor for name, each in factors.items()}
        estimate = sum(value * by.get(_constant(case, term), 1.0) for term, value in vars(case.terms).items())
        found[case.operator][case.batch].append(np.log(np.median(case.seconds) / estimate))
    return {
        operator: {batch: float(np.exp(np.mean(logs))) for batch, logs in batches.items()}
        for operator, batches in found.items()
    }


def _constant(case: Measured, term: str) -> str:
    return term if term in SHARED else f"{term} of {case.operator}"


def _factors(terms: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Gauss-Newton over log f, damped: [cases, constants], [cases] -> [constants]."""
    logs = np.zeros(terms.shape[1])
    damping = 1.0
    error = _error(terms, measured, logs)
    for _ in range(STEPS):
        parts = terms * np.exp(logs)
        estimate = parts.sum(axis=1)
        slope = parts / estimate[:, None]
        gradient = slope.T @ np.log(estimate / measured) + KEEP * logs
        step = np.linalg.solve(slope.T @ slope + (KEEP + damping) * np.eye(len(logs)), gradient)
        if (after := _error(terms, measured, logs - step)) < error:
            logs, error, damping = logs - step, after, damping / 3
        else:
            damping *= 4
    return np.exp(logs)


def _error(terms: np.ndarray, measured: np.ndarray, logs: np.ndarray) -> float:
    return float((np.log(terms @ np.exp(logs) / measured) ** 2).sum() + KEEP * (logs**2).sum())
