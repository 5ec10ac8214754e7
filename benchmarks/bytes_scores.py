"""Answers of an ONNX file to the test rows, and their metrics in plain NumPy. Nothing here uses the package's own measurement code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from recprune_export.data import NEXT_ITEM, Ragged, Rows
from recprune_export.data.histories import count_items
from recprune_export.finetuning import LabeledRows, NextItems

CUTOFF = 10  # of NDCG
RARE_FRACTION = 0.1
ECE_BINS = 15
ROWS_PER_BATCH, HISTORIES_PER_BATCH = 4096, 256  # a history has a score for each item
NO_RANK = np.iinfo(np.int32).max  # of a target that is not in the vocabulary


@dataclass(frozen=True)
class Truth:
    """What is known of the N test rows: `labels`, 0 or 1, [N] each, none for a ranking, and the rows of rare ids, bool [N]."""

    labels: Mapping[str, np.ndarray]
    is_rare: np.ndarray

    @property
    def is_ranking(self) -> bool:
        """Whether the answers are ranks of the next item."""
        return not self.labels

    def save(self, path: Path) -> None:
        """Write the arrays as NPZ."""
        np.savez_compressed(path, is_rare=self.is_rare, **{f"label:{name}": v for name, v in self.labels.items()})

    @classmethod
    def load(cls, path: Path) -> "Truth":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            labels = {name.partition(":")[2]: arrays[name] for name in arrays.files if name.startswith("label:")}
            return cls(labels, arrays["is_rare"])


@dataclass(frozen=True)
class Quality:
    """Metrics of the answers of one file; `ece` is None for a ranking.

    `metric` is the AUC, its mean over labels, or NDCG@10; `influence` its derivative with respect to copies of each row, [N].
    """

    metric: float
    logloss: float
    ece: float | None
    rare: float
    influence: np.ndarray


def find_truth(task: LabeledRows | NextItems) -> Truth:
    """Return the labels of the test rows, and which of them are about rare ids.

    Of rows with labels the rare ones are the tenth whose rarest id has the fewest training rows; of histories those whose
    target is among the rarest items, which together have a tenth of the occurrences in training.
    """
    rows = task.data.test
    if isinstance(task, NextItems):
        target = rows.labels[NEXT_ITEM]
        counts = count_items(task.data.train, task.data.encoder.items.rows)
        return Truth({}, mark_rare_targets(counts, target))
    ids = {name: values for name, values in rows.inputs.items() if values.dtype.kind == "i" and values.ndim == 1}
    counts_by_field = {
        name: np.bincount(task.data.train.inputs[name], minlength=int(values.max()) + 1)[values]
        for name, values in ids.items()
    }
    rarest = np.min(list(counts_by_field.values()), axis=0)
    return Truth({name: rows.labels[name] for name in task.objective.label_kinds}, mark_rare_rows(rarest))


def mark_rare_rows(counts: np.ndarray) -> np.ndarray:
    """Return which rows are in the tenth with the smallest counts, [N]; rows as rare as the last of them are in as well.

    >>> mark_rare_rows(np.arange(20)).nonzero()[0].tolist()
    [0, 1]
    """
    return counts <= np.quantile(counts, RARE_FRACTION, method="lower")


def mark_rare_targets(counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return which targets, [N], are among the rarest items, of `counts` [I], with a tenth of all occurrences.

    >>> mark_rare_targets(np.array([0, 1, 9, 1, 89]), np.array([1, 2, 3, 4])).tolist()
    [True, False, True, False]
    """
    order = np.argsort(counts, kind="stable")
    below = np.cumsum(counts[order]) <= RARE_FRACTION * counts.sum()
    is_rare = np.zeros(len(counts), dtype=bool)
    is_rare[order[below]] = True
    return is_rare[target]


def answer_test_rows(path: Path, task: LabeledRows | NextItems) -> dict[str, np.ndarray]:
    """Return the answers of the file to all test rows, by name.

    For each label the logit, float32 [N]; for histories `rank`, the position of the target among the items that the user
    did not have, from 0, and `log_probability` of the target among all items, [N] each.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names, outputs = [i.name for i in session.get_inputs()], task.objective.output_labels
    batches = task.data.test.batches(HISTORIES_PER_BATCH if isinstance(task, NextItems) else ROWS_PER_BATCH)
    answers: list[dict[str, np.ndarray]] = []
    for batch in batches:
        response = session.run(list(outputs), {name: batch.inputs[name] for name in names})
        if isinstance(task, NextItems):
            answers.append(rank_next_items(response[0], batch))
        else:
            answers.append({label: a.reshape(-1) for label, a in zip(outputs.values(), response, strict=True)})
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def rank_next_items(scores: np.ndarray, batch: Rows) -> dict[str, np.ndarray]:
    """Return `rank` and `log_probability` of the targets from the scores of all items, [B, I]; column 0 is the padding.

    Items with the score of the target count as before it.
    """
    target, excluded = batch.labels[NEXT_ITEM], batch.excluded_items
    assert isinstance(excluded, Ragged)
    rows = np.arange(len(target))
    at_target = scores[rows, target][:, None].astype(np.float64)
    shifted = np.exp(scores[:, 1:] - at_target)
    is_before = scores >= scores[rows, target][:, None]
    is_before[np.repeat(rows, excluded.lengths), excluded.values] = False
    is_before[:, 0] = False
    is_before[rows, target] = False
    rank = np.where(target > 0, is_before.sum(1), NO_RANK).astype(np.int32)
    return {"rank": rank, "log_probability": -np.log(shifted.sum(1)).astype(np.float32)}


def measure_quality(answers: Mapping[str, np.ndarray], truth: Truth) -> Quality:
    """Return the metrics of the answers; of several labels they are means."""
    rare = truth.is_rare
    if truth.is_ranking:
        gains = compute_gains(answers["rank"])
        known = answers["rank"] != NO_RANK
        metric = float(gains.mean())
        influence = (gains - metric) / len(gains)
        return Quality(
            metric, -float(answers["log_probability"][known].mean()), None, float(gains[rare].mean()), influence
        )
    by_label = [(truth.labels[name] > 0.5, answers[name].astype(np.float64)) for name in truth.labels]
    areas, influences = zip(*(compute_auc(logits, positive) for positive, logits in by_label), strict=True)
    return Quality(
        metric=float(np.mean(areas)),
        logloss=float(np.mean([compute_logloss(logits, positive) for positive, logits in by_label])),
        ece=float(np.mean([compute_ece(1.0 / (1.0 + np.exp(-logits)), positive) for positive, logits in by_label])),
        rare=float(np.mean([compute_auc(logits[rare], positive[rare])[0] for positive, logits in by_label])),
        influence=np.mean(influences, axis=0),
    )


def compute_gains(rank: np.ndarray) -> np.ndarray:
    """Return NDCG@10 of each row with one relevant item, [N].

    >>> compute_gains(np.array([0, 2, 10])).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.where(rank < CUTOFF, 1.0 / np.log2(rank.astype(np.float64) + 2.0), 0.0)


def compute_auc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area under the ROC curve, ties by half, and the influence of each row on it, [N].

    The influence is the placement of DeLong et al. (1988): of a positive row the fraction of negative rows below it, of a
    negative row that of positive rows above it, less the area, over the number of rows of its kind. O(N log N).

    >>> compute_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))[0]
    0.75
    """
    distinct, level = np.unique(scores, return_inverse=True)
    positives, negatives = (np.bincount(level[rows], minlength=len(distinct)) for rows in (positive, ~positive))
    below = (negatives.cumsum() - negatives / 2.0) / negatives.sum()
    above = 1.0 - (positives.cumsum() - positives / 2.0) / positives.sum()
    area = float((positives * below).sum() / positives.sum())
    placement = np.where(positive, below[level], above[level])
    return area, (placement - area) / np.where(positive, positives.sum(), negatives.sum())


def compute_logloss(logits: np.ndarray, positive: np.ndarray) -> float:
    """Return the mean cross entropy in nats."""
    return float(np.logaddexp(0.0, np.where(positive, -logits, logits)).mean())


def compute_ece(probability: np.ndarray, positive: np.ndarray) -> float:
    """Return the expected calibration error: the mean distance of predicted and observed rates in 15 bins of equal width.

    >>> compute_ece(np.array([0.25, 0.25, 0.75, 0.75]), np.array([False, True, True, True]))
    0.25
    """
    bins = np.minimum((probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=probability - positive, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(probability))
