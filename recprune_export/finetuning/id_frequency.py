"""How many training rows have the ids of each test row, by which quality is divided into buckets."""

from collections.abc import Iterator

import numpy as np

from recprune_export.data.distribution.data_profile import FieldValues
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM, SequenceData
from recprune_export.finetuning.profile_rows import read_fields
from recprune_export.finetuning.task import LabeledRows, NextItems, Task
from recprune_export.metrics.quality_comparison import IdFrequencies
from recprune_export.program.signature import Signature


def count_id_frequencies(task: Task, signature: Signature) -> IdFrequencies | None:
    """Return the frequencies of the rarest id of each test row, or for a ranking of its target.

    Only fields with one id for each row count. None without test rows or such fields.
    """
    if isinstance(task, NextItems):
        targets = task.data.test.labels[NEXT_ITEM]
        counts = count_occurrences(task.data.train.values, targets)
        return IdFrequencies("item that follows", np.where(targets > 0, counts, 0))
    if not isinstance(task, LabeledRows):
        return None
    fields = zip(*(_id_fields(task, signature, rows) for rows in (task.data.train, task.data.test)), strict=True)
    frequencies = [count_occurrences(train.values, test.values) for train, test in fields]
    return IdFrequencies("rarest id of the row", np.minimum.reduce(frequencies)) if frequencies else None


def _id_fields(task: LabeledRows, signature: Signature, rows: Rows) -> Iterator[FieldValues]:
    assert not isinstance(task.data, SequenceData)
    return (field for field in read_fields(task.data, signature, rows) if field.ids and field.values.ndim == 1)


def count_occurrences(ids: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return how often each of `queries`, [N], occurs in `ids`, int64 [N].

    >>> count_occurrences(np.array([5, 7, 5]), np.array([5, 6, 7, 9])).tolist()
    [2, 0, 1, 0]
    """
    known, counts = np.unique(ids, return_counts=True)
    if not len(known):
        return np.zeros(len(queries), dtype=np.int64)
    index = np.searchsorted(known, queries).clip(max=len(known) - 1)
    return np.where(known[index] == queries, counts[index], 0)
