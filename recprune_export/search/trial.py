"""`Trial`: the loss of a model and the measurements of its file, at one operating point and seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from recprune_export.codec import FLATTENED, DictMixin, decode
from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.search.measure_artifact import ArtifactMeasurements
from recprune_export.search.operating_point import OperatingPoint

TrialKey = tuple[OperatingPoint, int]  # a point and a seed


@dataclass(frozen=True)
class Trial(DictMixin):
    """The change of the metric of the validation rows at one operating point and seed, from dense to pruned and tuned.

    With weights in few bits, the metric is that of the rounded weights. `artifact` is not None if the search also measures size and
    speed; if it is quantized, the metric is that of the quantized file.
    """

    point: OperatingPoint
    seed: int
    change: MetricChange = field(metadata=FLATTENED)
    artifact: ArtifactMeasurements | None = None

    def judge(self, max_drop: float) -> Verdict:
        """Judge the claim that the metric becomes worse by at most `max_drop`."""
        return judge_at_most(self.change.loss, max_drop)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`. Raises `ValueError` or `KeyError` for values of another form."""
        return decode(cls, {**values, "change": MetricChange.from_dict(values)})
