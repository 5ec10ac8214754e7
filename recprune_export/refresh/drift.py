"""Judge whether ids, numbers and labels are distributed as in the rows that the artifact was tuned on."""

from collections.abc import Sequence

from recprune_export.data.distribution.data_profile import DataProfile, Drift, FieldValues
from recprune_export.data.distribution.stability_index import MAJOR
from recprune_export.refresh.verdicts import DriftFinding

MEASURE = "drift"
NAMED = 3  # fields in the sentence


def judge_drift(profile: DataProfile | None, columns: Sequence[FieldValues]) -> tuple[DriftFinding, tuple[Drift, ...]]:
    """Fail where the population stability index of any field is above the usual limit, and above chance."""
    if profile is None:
        return DriftFinding(
            MEASURE,
            None,
            "The bundle has no profile of its data: it was made without --data, or before there were any; compress again.",
        ), ()
    drifts = sorted(profile.drifts(columns), key=lambda d: -d.psi)
    major = [d for d in drifts if d.major]
    if not major:
        most = f"; the most is {drifts[0].psi:.3f}, '{drifts[0].name}'" if drifts else ""
        text = f"No field has a population stability index above {MAJOR:g} and above chance{most}."
        return DriftFinding(MEASURE, True, text), tuple(drifts)
    named = ", ".join(f"'{d.name}' ({d.psi:.2f})" for d in major[:NAMED])
    more = f" and {len(major) - NAMED} more" if len(major) > NAMED else ""
    text = f"The population stability index is above {MAJOR:g}, a major shift, of {named}{more}."
    return DriftFinding(MEASURE, False, text), tuple(drifts)
