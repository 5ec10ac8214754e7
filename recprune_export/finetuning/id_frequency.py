"""Count the training rows with the ids of each test row, by which quality is divided into buckets."""

from collections.abc import Iterator

import numpy as np

from recprune_export.data.distribution.data_profile import FieldValues
from recprune_export.data.row_source import BATCH_ROWS
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM, SequenceData
from recprune_export.finetuning.id_counts import IdCounts
from recprune_export.finetuning.profile_rows import read_fields
from recprune_export.finetuning.task import LabeledRows, NextItems, Task
from recprune_export.metrics.quality_comparison import IdFrequencies
from recprune_export.metrics.row_arrays import RowArrayWriter
from recprune_export.program.signature import Signature


def count_id_frequencies(task: Task, signature: Signature) -> IdFrequencies | None:
    """Return the frequency of the rarest id of each test row, or, for a ranking, of its target.

    Only fields with one id for each row count. None without test rows or such fields. Memory: the counts of the ids, and a batch of rows;
    the frequencies of many test rows are in a file.
    """
    if isinstance(task, NextItems):
        counts = IdCounts()
        for histories in task.data.train.windows():
            counts.add(histories.values)
        found = RowArrayWriter(len(task.data.test))
        for rows in task.data.test.batches(BATCH_ROWS):
            targets = rows.labels[NEXT_ITEM]
            found.add(np.where(targets > 0, counts.look_up(targets), 0))
        return IdFrequencies("item that follows", found.array)
    if not isinstance(task, LabeledRows):
        return None
    by_field: dict[str, IdCounts] = {}
    for rows in task.data.train.batches(BATCH_ROWS):
        for field in _id_fields(task, signature, rows):
            by_field.setdefault(field.name, IdCounts()).add(field.values)
    if not by_field:
        return None
    frequencies = RowArrayWriter(len(task.data.test))
    for rows in task.data.test.batches(BATCH_ROWS):
        of_field = [by_field[field.name].look_up(field.values) for field in _id_fields(task, signature, rows)]
        frequencies.add(np.minimum.reduce(of_field))
    return IdFrequencies("rarest id of the row", frequencies.array)


def _id_fields(task: LabeledRows, signature: Signature, rows: Rows) -> Iterator[FieldValues]:
    assert not isinstance(task.data, SequenceData)
    return (field for field in read_fields(task.data, signature, rows) if field.ids and field.values.ndim == 1)
