"""Judge whether ids, numbers and labels are distributed as in the rows that the artifact was tuned on."""

from collections.abc import Sequence

from recprune_export.data.distribution.data_profile import DataProfile, Drift, FieldValues
from recprune_export.data.distribution.stability_index import MAJOR
from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.refresh.verdicts import DriftFinding

MEASURE = "drift"
NAMED = 3  # the number of fields in the sentence


def judge_drift(profile: DataProfile | None, columns: Sequence[FieldValues]) -> tuple[DriftFinding, tuple[Drift, ...]]:
    """Judge the claim that the population stability index of no field is above the usual limit."""
    if profile is None:
        text = "The bundle has no profile of its data: it was made without --data or by an old release; compress again."
        return DriftFinding(MEASURE, Verdict.SKIPPED, text), ()
    drifts = tuple(sorted(profile.drifts(columns), key=lambda d: (d.estimate.estimate, d.estimate.high), reverse=True))
    verdict = combine_verdicts(drift.verdict for drift in drifts)
    subjects = [drift for drift in drifts if drift.verdict is verdict]
    if verdict is Verdict.HOLDS:
        most = f"; the largest is {drifts[0].format_index()}, of '{drifts[0].name}'" if drifts else ""
        text = f"No field has a population stability index above {MAJOR:g}{most}."
    elif verdict is Verdict.FAILS:
        text = f"The population stability index is above {MAJOR:g}, a major shift, for {_list_fields(subjects)}."
    else:
        text = (
            f"It is inconclusive whether the population stability index is above {MAJOR:g}, a major shift, for "
            f"{_list_fields(subjects)}: give more rows."
        )
    return DriftFinding(MEASURE, verdict, text, limit=MAJOR), drifts


def _list_fields(drifts: Sequence[Drift]) -> str:
    more = f" and {len(drifts) - NAMED} more" if len(drifts) > NAMED else ""
    return ", ".join(f"'{drift.name}' ({drift.format_index()})" for drift in drifts[:NAMED]) + more
