"""Trials that run ahead never change what a search finds."""

import random
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.evidence import Verdict
from recprune_export.search import OperatingPoint
from recprune_export.search.max_drop import DropRule, find_point_within_drop
from recprune_export.search.speculation import list_next_trials
from recprune_export.search.trial import TrialKey
from tests.search.test_max_drop import CLAIM, CurveTrials

HOLDS = frozenset({Verdict.HOLDS})
RULES = st.builds(
    DropRule,
    accepted=st.sampled_from([HOLDS, HOLDS | {Verdict.UNDECIDED}]),
    kind=st.sampled_from(["bytes", "sparsity"]),
    first=st.floats(0.03, 0.9),
    seed=st.integers(0, 3),
    limit=st.sampled_from([1.0, 0.5, 0.1]),
)


def noisy_verdict(key: TrialKey, edge: float, noise: float, salt: int) -> Verdict:
    """A verdict that falls with the density, but for noise by which it is not monotone; the same whenever it is asked for."""
    point, seed = key
    draw = random.Random(repr((point, seed, salt))).uniform(1 - noise, 1 + noise)
    ratio = point.density * draw / edge
    return Verdict.HOLDS if ratio > 1.1 else Verdict.FAILS if ratio < 0.9 else Verdict.UNDECIDED


@given(RULES, st.floats(0.01, 0.9), st.sampled_from([0.0, 0.3, 0.9]), st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=100)
def test_the_decision_is_the_same_for_any_number_of_processes_and_any_order(
    rule: DropRule, edge: float, noise: float, jobs: int, salt: int
) -> None:
    asked: list[TrialKey] = []

    def judge(point: OperatingPoint, seed: int) -> Verdict:
        asked.append((point, seed))
        return noisy_verdict((point, seed), edge, noise, salt)

    alone = rule.decide(judge)
    order, known, running, rounds = random.Random(salt), {}, [], 0
    while keys := list_next_trials(rule.decide, known, jobs):
        assert len(keys) == len(set(keys)) <= jobs
        assert keys[0] in asked  # the first is one of those that the search alone asks for
        running += [key for key in keys if key not in running][: jobs - len(running)]
        done = keys[0] if keys[0] in running and order.random() < 0.7 else order.choice(running)
        running.remove(done)
        known[done] = noisy_verdict(done, edge, noise, salt)
        rounds += 1
        assert rounds < 2000
    assert rule.decide(lambda point, seed: known[point, seed]) == alone
    assert set(asked) <= set(known)


@given(RULES, st.floats(0.01, 0.9), st.integers(0, 99))
def test_one_process_runs_the_trials_of_the_search_alone(rule: DropRule, edge: float, salt: int) -> None:
    asked: dict[TrialKey, Verdict] = {}

    def judge(point: OperatingPoint, seed: int) -> Verdict:
        return asked.setdefault((point, seed), noisy_verdict((point, seed), edge, 0.3, salt))

    rule.decide(judge)
    known: dict[TrialKey, Verdict] = {}
    while keys := list_next_trials(rule.decide, known, 1):
        known[keys[0]] = noisy_verdict(keys[0], edge, 0.3, salt)
    assert list(known) == list(asked)


class CurveWorkers:
    """Processes that answer at once."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def submit(self, trials: "CurveTrialsInWorkers", key: TrialKey, folder: Path) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(trials.run(*key))
        except Exception as error:
            future.set_exception(error)
        return future


class CurveTrialsInWorkers(CurveTrials):
    """The same trials, which may come from processes."""

    artifacts = False

    def __init__(self, *curve: float) -> None:
        super().__init__(*curve)
        self.too_few: set[TrialKey] = set()

    def find(self, key: TrialKey) -> Any:
        return self.results.get(key)

    def has_too_few_bytes(self, key: TrialKey) -> bool:
        return key in self.too_few

    def add_tuned(self, key: TrialKey, tuned: Any, folder: Path) -> None:
        self.results[key] = tuned

    def add_too_few_bytes(self, key: TrialKey, error: Exception) -> None:
        self.too_few.add(key)


@given(st.floats(0.003, 0.9), st.floats(0.0, 0.3), st.sampled_from([1.0, 1.3]), st.integers(1, 6))
@settings(max_examples=60)
def test_point_trials_and_reports_are_those_of_the_search_alone(
    edge: float, least: float, worse_seed: float, jobs: int
) -> None:
    lines: tuple[list[str], list[str]] = ([], [])
    alone = find_point_within_drop(CurveTrials(edge, least, worse_seed), CLAIM, "bytes", 0.1, report=lines[0].append)  # type: ignore[arg-type]
    trials, workers = CurveTrialsInWorkers(edge, least, worse_seed), CurveWorkers(jobs)
    together = find_point_within_drop(trials, CLAIM, "bytes", 0.1, report=lines[1].append, workers=workers)  # type: ignore[arg-type]
    assert together == alone
    assert lines[0] == lines[1]
