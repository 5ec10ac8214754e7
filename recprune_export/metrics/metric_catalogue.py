"""`Metric` and the catalogue of all metrics, by name and by the kind of label for which they are defined."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from recprune_export.column_names import did_you_mean
from recprune_export.data.labels import LabelKind
from recprune_export.errors import UsageError
from recprune_export.metrics import area_metrics, pointwise_metrics, ranking_metrics
from recprune_export.metrics.area_metrics import count_mixed_groups
from recprune_export.metrics.observations import Observations, Targets

Needs = Literal["rows", "both classes", "mixed groups"]
TOP = 10
MEAN = "mean "  # before the name of a metric: its mean over labels
BINARY, CLASSES, NUMBER, NEXT_ITEM = LabelKind.BINARY, LabelKind.CLASSES, LabelKind.NUMBER, LabelKind.NEXT_ITEM


@dataclass(frozen=True)
class Metric:
    """A metric of the predictions of one label.

    `compute` returns its value and `influence` the derivative of the value with respect to the number of copies of each
    row, [N], or of each group, [groups]. `needs` states the labels that are required for it to be defined. `bounded`: it is at most 1.
    `steps`: single rows change it by up to 1 or not at all, like a hit. All metrics respect the weights of rows.
    """

    name: str
    greater_is_better: bool
    label_kinds: frozenset[LabelKind]
    compute: Callable[[Observations], float]
    influence: Callable[[Observations], np.ndarray]
    needs: Needs = "rows"
    bounded: bool = False
    steps: bool = False

    @property
    def by_group(self) -> bool:
        """Whether the metric is a mean over groups of rows."""
        return self.needs == "mixed groups"

    def why_undefined(self, targets: Targets) -> str | None:
        """Return the reason why the metric is not defined on these rows; None if it is."""
        if not len(targets):
            return "no row with the label"
        if self.needs == "rows":
            return None
        positive = _count_positive(targets)
        if not positive:
            return "no positive row"
        if positive == len(targets):
            return "no negative row"
        if self.by_group and not (targets.groups is not None and count_mixed_groups(targets.labels, targets.groups)):
            return "no group with a positive and a negative row"
        return None

    def count_units(self, targets: Targets) -> int:
        """Return the number of independent rows or groups behind the value, of the rarer class if there are two."""
        if self.by_group:
            assert targets.groups is not None
            return count_mixed_groups(targets.labels, targets.groups)
        if self.needs == "both classes":
            positive = _count_positive(targets)
            return min(positive, len(targets) - positive)
        return len(targets)


def _count_positive(targets: Targets) -> int:
    return int(targets.sum_over_rows(lambda piece: piece.labels > 0.5))


def _mean_metric(
    name: str,
    kinds: Iterable[LabelKind],
    rows: pointwise_metrics.RowValues,
    *,
    greater_is_better: bool,
    compute: Callable[[Observations], float] | None = None,
    steps: bool = False,
) -> Metric:
    """Return the metric that is the weighted mean of a value of each row."""
    return Metric(
        name,
        greater_is_better,
        frozenset(kinds),
        compute or partial(pointwise_metrics.compute_mean, rows),
        partial(pointwise_metrics.mean_influence, rows),
        steps=steps,
    )


def _ranking_metric(name: str, gains: Callable[[np.ndarray], np.ndarray]) -> Metric:
    rows = lambda observed: gains(observed.predictions)  # noqa: E731
    return _mean_metric(name, (NEXT_ITEM,), rows, greater_is_better=True, steps=True)


_METRICS = (
    Metric(
        "auc", True, frozenset({BINARY}), area_metrics.compute_auc, area_metrics.auc_influence, "both classes", bounded=True
    ),
    _mean_metric("logloss", (BINARY, CLASSES), pointwise_metrics.row_losses, greater_is_better=False),
    Metric(
        "pr-auc", True, frozenset({BINARY}), area_metrics.compute_pr_auc, area_metrics.pr_auc_influence, "both classes",
        bounded=True,
    ),
    Metric(
        "gauc", True, frozenset({BINARY}), area_metrics.compute_gauc, area_metrics.gauc_influence, "mixed groups",
        bounded=True,
    ),
    Metric("rmse", False, frozenset({NUMBER, BINARY}), pointwise_metrics.compute_rmse, pointwise_metrics.rmse_influence),
    _mean_metric(
        "mae", (NUMBER, BINARY), pointwise_metrics.absolute_errors, greater_is_better=False,
        compute=pointwise_metrics.compute_mae,
    ),
    Metric("ece", False, frozenset({BINARY, CLASSES}), pointwise_metrics.compute_ece, pointwise_metrics.ece_influence),
    _mean_metric(
        "accuracy", (CLASSES, BINARY), pointwise_metrics.correct_classes, greater_is_better=True, steps=True
    ),
    _ranking_metric("mrr", ranking_metrics.reciprocal_ranks),
)  # fmt: skip
_AT_K = {
    "ndcg": ranking_metrics.discounted_gains,
    "hr": ranking_metrics.hits,
    "recall": ranking_metrics.hits,
}
_BY_NAME = {metric.name: metric for metric in _METRICS}
_NAME_AT_K = re.compile(rf"({'|'.join(_AT_K)})@([1-9]\d*)")
_DEFAULTS = {
    BINARY: ("auc", "logloss"),
    CLASSES: ("logloss", "accuracy"),
    NUMBER: ("rmse", "mae"),
    NEXT_ITEM: (f"ndcg@{TOP}", f"hr@{TOP}"),
}


def find_metric(name: str) -> Metric | None:
    """Return the metric of a name, which may have a label and a slash before it, or `mean`; None if there is none.

    >>> [find_metric(name).greater_is_better for name in ("AUC", "click/logloss", "mean auc", "ndcg@20")]
    [True, False, True, True]
    """
    plain = name.rpartition("/")[2].removeprefix(MEAN).lower().replace("_", "-")
    at_k = _NAME_AT_K.fullmatch(plain)
    if at_k is None:
        return _BY_NAME.get(plain)
    return _ranking_metric(plain, partial(_AT_K[at_k[1]], k=int(at_k[2])))


def check_metric_names(names: Iterable[str]) -> None:
    """Raise `UsageError` for the first name that is not a metric for any kind of label."""
    for name in names:
        if find_metric(name) is None:
            known = list_metric_names()
            raise UsageError(f"There is no metric '{name}'; choose from {', '.join(known)}{did_you_mean(name, known)}")


def list_metric_names(kinds: Iterable[LabelKind] = LabelKind) -> tuple[str, ...]:
    """Return the names of all metrics that are defined for one of `kinds`.

    >>> list_metric_names([LabelKind.NUMBER]), list_metric_names([LabelKind.NEXT_ITEM])
    (('rmse', 'mae'), ('mrr', 'ndcg@10', 'hr@10', 'recall@10'))
    """
    present = set(kinds)
    names = tuple(metric.name for metric in _METRICS if metric.label_kinds & present)
    return (*names, *(f"{name}@{TOP}" for name in _AT_K)) if NEXT_ITEM in present else names


def choose_default_metrics(kinds: Sequence[LabelKind]) -> tuple[str, ...]:
    """Return the names of the metrics for labels of `kinds`; the first decides.

    >>> choose_default_metrics([LabelKind.BINARY, LabelKind.NUMBER])
    ('auc', 'logloss', 'rmse', 'mae')
    """
    return tuple(dict.fromkeys(name for kind in kinds for name in _DEFAULTS[kind]))
