"""Gates on load time and peak memory: pairs of fresh processes are added until both are decided, or for a limited time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.gate.findings import Finding, format_at_most, make_skipped_finding
from recprune_export.gate.gate_constants import (
    CONFIDENCE,
    FOOTPRINT_PROCESSES,
    FOOTPRINT_STEP,
    LOAD_TIME_SLACK,
    PEAK_MEMORY_SLACK,
)
from recprune_export.gate.limits import Limits
from recprune_export.gate.output.finding_rows import format_amount, format_growth
from recprune_export.validation.latency.footprint import Footprint, FootprintReport
from recprune_export.validation.latency.statistics import interval_of_few

# Measures this number of further pairs of processes, NEW and BASE.
FootprintSampler = Callable[[int], FootprintReport]


@dataclass(frozen=True)
class CostRule:
    """A value measured in fresh processes; absolute growth up to `slack` is never a failure."""

    gate: str
    unit: str
    value: Callable[[Footprint], float]
    slack: float


COST_RULES = (
    CostRule("load time", "ms", lambda footprint: footprint.load, slack=LOAD_TIME_SLACK),
    CostRule("peak memory", "bytes", lambda footprint: footprint.peak, slack=PEAK_MEMORY_SLACK),
)


def collect_footprints(
    sample: FootprintSampler, new: str, base: str, limits: Limits, seconds: float
) -> FootprintReport | None:
    """Measure pairs of processes until both gates are decided, or for `seconds`; None if both gates are off.

    The first `FOOTPRINT_PROCESSES` pairs run even if the time is over, because an interval needs them.
    """
    if all(limits.is_off(rule.gate) for rule in COST_RULES):
        return None
    start = time.perf_counter()
    report = sample(FOOTPRINT_PROCESSES)
    longest = (time.perf_counter() - start) * FOOTPRINT_STEP / FOOTPRINT_PROCESSES
    while any(f.verdict is Verdict.UNDECIDED for f in compare_costs(report, new, base, limits)):
        before = time.perf_counter()
        if before + longest > start + seconds:
            break
        more = sample(FOOTPRINT_STEP)
        longest = max(longest, time.perf_counter() - before)
        report = FootprintReport({name: runs + more.runs[name] for name, runs in report.runs.items()}, report.batch)
    return report


def compare_costs(report: FootprintReport | None, new: str, base: str, limits: Limits) -> list[Finding]:
    """Compare load time and peak memory by the ratio of medians over neighboring processes.

    The claim is judged again after each step, so intervals of 99 % keep the error of a verdict below 2.5 %
    (docs/decisions/one-rule-of-evidence.md).
    """
    return [
        make_skipped_finding(rule.gate, "Turned off.")
        if report is None or limits.is_off(rule.gate)
        else _compare_cost(rule, report.runs[new], report.runs[base], limits.limit_for(rule.gate))
        for rule in COST_RULES
    ]


def _compare_cost(rule: CostRule, new: Sequence[Footprint], base: Sequence[Footprint], tolerance: float) -> Finding:
    pairs = np.array([(max(rule.value(n), 1e-9), max(rule.value(b), 1e-9)) for n, b in zip(new, base, strict=True)])
    ratio, (new_median, base_median) = ratio_of_few_medians(pairs), np.median(pairs, axis=0).tolist()
    allowed = max(tolerance, rule.slack / base_median)  # growth, as a fraction
    verdict = judge_at_most(ratio, 1.0 + allowed)
    before, after = format_amount(base_median, rule.unit), format_amount(new_median, rule.unit)
    reason = f"{rule.gate} went from {before} to {after}, medians of {len(pairs)} processes each"
    if verdict is Verdict.UNDECIDED:
        reason += (
            f", a change of {format_growth(ratio)}; the result is inconclusive for the limit, at most {100 * allowed:.3g} % "
            "more: raise --time-limit, or use a less busy machine"
        )
    elif verdict is Verdict.HOLDS and ratio.high > 1.0 + tolerance:
        reason += f"; growth of up to {format_amount(rule.slack, rule.unit)} is ignored"
    limit = format_at_most(tolerance)
    if allowed > tolerance:
        limit = f"at most {format_amount(rule.slack, rule.unit)} more"
    return Finding(
        rule.gate, verdict, f"{reason}.", base_median, new_median, rule.unit, limit, ratio, allowed,
    )  # fmt: skip


def ratio_of_few_medians(pairs: np.ndarray) -> Estimate:
    """Return median(NEW) / median(BASE) of pairs [n, 2] with its interval, by the bootstrap over pairs of `interval_of_few`.

    Process i of both ran next to each other, so that simultaneous disturbances are in both medians.
    """

    def log_ratio(drawn: np.ndarray) -> np.ndarray:
        medians = np.log(np.median(pairs[drawn.astype(np.int64)], axis=-2))  # [..., 2]
        return np.asarray(medians[..., 0] - medians[..., 1])

    return interval_of_few(np.arange(len(pairs)), log_ratio, confidence=CONFIDENCE).apply(exp)
