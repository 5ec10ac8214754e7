"""`run_ahead`: run the trials that a rule requests, and at the same time trials that it may request next.

A rule requests trials one after the other, each depending on the previous verdicts. While the requested trial runs, free processes run
the trials that come next if it holds, and if it fails. The rule is not changed: it is applied to the known verdicts, and to assumed ones
only to find trials that may be needed. So the decision is the same for any number of processes; some trials turn out not to be needed.
"""

from collections import deque
from collections.abc import Callable, Mapping

from recprune_export.evidence import Verdict
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.trial import TrialKey
from recprune_export.search.trials import Trials
from recprune_export.search.workers.schedule import tune_in_workers
from recprune_export.search.workers.tuning_workers import TuningWorkers

Rule = Callable[[Callable[[OperatingPoint, int], Verdict]], object]
BRANCHES = 16  # sequences of verdicts that are followed to find one trial


class _NeedsTrial(Exception):
    def __init__(self, key: TrialKey) -> None:
        super().__init__(key)
        self.key = key


def list_next_trials(rule: Rule, known: Mapping[TrialKey, Verdict], count: int) -> list[TrialKey]:
    """Return up to `count` trials that `rule` requests or may request: first the requested one, then others by the verdicts that they
    require.

    Empty if the rule has decided.
    """
    keys: list[TrialKey] = []
    branches: deque[dict[TrialKey, Verdict]] = deque([{}])  # assumed verdicts
    for _ in range(BRANCHES * count):
        if not branches or len(keys) >= count:
            break
        assumed = branches.popleft()

        def judge(point: OperatingPoint, seed: int, assumed: Mapping[TrialKey, Verdict] = assumed) -> Verdict:
            key = (point, seed)
            verdict = known.get(key, assumed.get(key))
            if verdict is None:
                raise _NeedsTrial(key)
            return verdict

        try:
            rule(judge)
        except _NeedsTrial as need:
            if need.key not in keys:
                keys.append(need.key)
            branches.extend({**assumed, need.key: verdict} for verdict in (Verdict.HOLDS, Verdict.FAILS))
    return keys


def run_ahead(trials: Trials, max_drop: float, rule: Rule, workers: TuningWorkers) -> None:
    """Run trials in `workers` until `rule` can decide from the finished ones."""
    known: dict[TrialKey, Verdict] = {}

    def choose() -> list[TrialKey]:
        while keys := list_next_trials(rule, known, workers.jobs):
            done = {key: verdict for key in keys if (verdict := _judge(trials, key, max_drop)) is not None}
            if not done:
                break
            known.update(done)
        return keys

    tune_in_workers(trials, choose, workers, "Trials of --max-drop")


def _judge(trials: Trials, key: TrialKey, max_drop: float) -> Verdict | None:
    """Return the verdict of a trial, None if it is not done yet."""
    if trials.has_too_few_bytes(key):
        return Verdict.FAILS
    trial = trials.find(key)
    return None if trial is None else trial.judge(max_drop)
