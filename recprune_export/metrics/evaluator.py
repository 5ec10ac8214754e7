"""`Evaluator`: the metrics on labeled rows, the deciding metric, and the metrics that are not defined, with reasons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from recprune_export.data.labels import LabelKind
from recprune_export.data.row_source import RowSource
from recprune_export.errors import DataError, UsageError
from recprune_export.metrics._paired_change import MetricChange, paired_change
from recprune_export.metrics.deciding_metric import DecidingMetric
from recprune_export.metrics.metric_catalogue import (
    MEAN,
    Metric,
    choose_default_metrics,
    find_metric,
    list_metric_names,
)
from recprune_export.metrics.observations import (
    LabelPredictor,
    Observations,
    RowFilter,
    Targets,
    observe,
    read_targets,
)
from recprune_export.settings import EvaluationSettings


@dataclass(frozen=True)
class Omission:
    """A metric of a label that is not defined on some rows, and the reason."""

    metric: Metric
    label: str
    reason: str
    rows: int  # with the label


@dataclass(frozen=True)
class Evaluator:
    """The metrics of the labels of some rows, the deciding one first."""

    kinds: Mapping[str, LabelKind]
    metrics: tuple[Metric, ...]

    def measure(self, observations: Mapping[str, Observations]) -> dict[str, float]:
        """Return all metrics that are defined, by name: `auc`, or `label/auc` if there are several labels."""
        return {
            self._full_name(label, metric): metric.compute(observations[label])
            for label, metric in self._pairs()
            if metric.why_undefined(observations[label].targets) is None
        }

    def compare(self, before: Mapping[str, Observations], after: Mapping[str, Observations]) -> dict[str, MetricChange]:
        """Return the change of each metric that is defined, by name."""
        changes = {}
        for label, metric in self._pairs():
            if metric.why_undefined(before[label].targets) is None:
                name = self._full_name(label, metric)
                changes[name] = paired_change(DecidingMetric(name, metric, (label,)), before, after)
        return changes

    def evaluate(
        self, predict: LabelPredictor, rows: RowSource, row_filter: RowFilter | None = None
    ) -> dict[str, float]:
        """Return all metrics of a model that are defined on `rows`, or on those that `row_filter` selects."""
        return self.measure(observe(predict, rows, self.kinds, row_filter))

    def omissions(self, rows: RowSource) -> tuple[Omission, ...]:
        """Return the metrics that are not defined on `rows`; this does not require a model."""
        return self._list_omissions(read_targets(rows, self.kinds))

    def _list_omissions(self, targets: Mapping[str, Targets]) -> tuple[Omission, ...]:
        reasons = ((metric, label, metric.why_undefined(targets[label])) for label, metric in self._pairs())
        return tuple(Omission(m, label, reason, len(targets[label])) for m, label, reason in reasons if reason)

    def choose_deciding(self, targets: Mapping[str, Targets]) -> DecidingMetric | None:
        """Return the first metric that is defined, as the mean over the labels for which it is; None if there is none."""
        for metric in self.metrics:
            labels = tuple(
                label
                for label, kind in self.kinds.items()
                if kind in metric.label_kinds and metric.why_undefined(targets[label]) is None
            )
            if labels:
                name = self._full_name(labels[0], metric) if len(labels) == 1 else f"{MEAN}{metric.name}"
                return DecidingMetric(name, metric, labels)
        return None

    def decide(self, rows: RowSource) -> DecidingMetric | None:
        """Return the metric that decides on `rows`; None if none is defined."""
        return self.choose_deciding(read_targets(rows, self.kinds))

    def require_deciding(self, rows: RowSource, split: str) -> DecidingMetric:
        """Return the metric that decides on `rows`. Raises `DataError`, before the job starts, if none is defined."""
        deciding = self.decide(rows)
        if deciding is None:
            reasons = "; ".join(_describe_omission(omission, split) for omission in self.omissions(rows))
            others = ", ".join(self._defined_names(rows))
            remedy = f", or --metric with one of {others}" if others else ""
            raise DataError(
                f"No metric can be computed on the {split} rows: {reasons}. Give more labeled rows{remedy}."
            )
        return deciding

    def _defined_names(self, rows: RowSource) -> Iterator[str]:
        """Yield the names of all metrics of the catalogue that are defined on `rows`."""
        targets = read_targets(rows, self.kinds)
        for name in list_metric_names(self.kinds.values()):
            metric = find_metric(name)
            if metric is not None and any(
                target.kind in metric.label_kinds and metric.why_undefined(target) is None
                for target in targets.values()
            ):
                yield name

    def notes(self, splits: Mapping[str, RowSource]) -> tuple[str, ...]:
        """Return a sentence for each metric that is left out in a split, and one if another metric decides there."""
        first = self.metrics[0]
        unfit = tuple(
            f"'{label}' is not used for decisions: {first.name} is not defined for labels of the kind "
            f"'{kind.value}'. Choose a metric with --metric."
            for label, kind in self.kinds.items()
            if kind not in first.label_kinds
        )
        return (*unfit, *(note for split, rows in splits.items() for note in self._split_notes(split, rows)))

    def _split_notes(self, split: str, rows: RowSource) -> Iterator[str]:
        targets = read_targets(rows, self.kinds)  # only once: rows may be in files
        omissions = self._list_omissions(targets)
        for omission in omissions:
            yield f"{omission.metric.name} is left out: {_describe_omission(omission, split)}."
        deciding = self.choose_deciding(targets)
        if deciding is None and omissions:
            yield f"No quality is measured on the {split} rows: no metric is defined on them."
        elif deciding is not None and deciding.metric.name != self.metrics[0].name:
            yield f"{deciding.name} is used for decisions on the {split} rows, since {self.metrics[0].name} is not defined on them."

    def _pairs(self) -> Iterator[tuple[str, Metric]]:
        for label, kind in self.kinds.items():
            for metric in self.metrics:
                if kind in metric.label_kinds:
                    yield label, metric

    def _full_name(self, label: str, metric: Metric) -> str:
        return f"{label}/{metric.name}" if len(self.kinds) > 1 else metric.name


def make_evaluator(settings: EvaluationSettings, kinds: Mapping[str, LabelKind]) -> Evaluator:
    """Return the evaluator of labels of `kinds`, by the metrics in `settings` or the usual ones.

    Raises `UsageError` for an unknown name, a metric that fits no label, and a group column that no metric uses.
    """
    present = tuple(dict.fromkeys(kinds.values()))
    names = settings.metrics or choose_default_metrics(present)
    by_name = {metric.name: metric for metric in (_require_metric(name, present) for name in names)}
    metrics = tuple(by_name.values())
    by_group = [metric.name for metric in metrics if metric.by_group]
    if by_group and settings.group is None:
        raise UsageError(
            f"--metric {by_group[0]} is a mean over groups: give the column of the groups with --group, such as the user."
        )
    if settings.group is not None and not by_group:
        raise UsageError(
            f"--group {settings.group} is used only by gauc: give --metric gauc as well, or leave out --group."
        )
    return Evaluator(dict(kinds), metrics)


def _require_metric(name: str, kinds: Sequence[LabelKind]) -> Metric:
    metric, fitting = find_metric(name), ", ".join(list_metric_names(kinds))
    labels = " and ".join(f"'{kind.value}'" for kind in kinds)
    if metric is None:
        any_k = " (any number may follow @)" if LabelKind.NEXT_ITEM in kinds else ""
        raise UsageError(f"'{name}' is not a metric. For labels of the kind {labels} choose from {fitting}{any_k}.")
    if not metric.label_kinds & set(kinds):
        raise UsageError(f"--metric {name} is not defined for labels of the kind {labels}: choose from {fitting}.")
    return metric


def _describe_omission(omission: Omission, split: str) -> str:
    if not omission.rows:
        return f"{omission.reason} '{omission.label}' in {split}"
    return f"{omission.reason} in {split} ('{omission.label}', {omission.rows:,} rows)"
