"""Which fields the rows of a task have, and the profile that travels with the bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from recprune_export.data.arrays import ArrayData
from recprune_export.data.clicks import ClickData
from recprune_export.data.distribution.data_profile import DataProfile, FieldValues
from recprune_export.data.encoding.encoder import NUMERIC, Encoder
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import HISTORY, NEXT_ITEM, SequenceData
from recprune_export.finetuning.task import LabeledRows, NextItems, Task
from recprune_export.program.signature import Input, Signature

MOST_ROWS = 200_000  # that are looked at: shares are known to a thousandth from that many


def make_data_profile(task: Task, signature: Signature) -> DataProfile | None:
    """Profile the rows of a task; None where there are none."""
    if not isinstance(task, LabeledRows | NextItems):
        return None
    data = task.data
    if isinstance(data, SequenceData):
        items = data.train.values[:MOST_ROWS]
        chooses = _items(items, items)
    else:
        chooses = read_field_values(data, signature, data.train)
    counted = [read_field_values(data, signature, rows) for rows in (data.valid, data.test)]
    joined = [
        replace(first, values=np.concatenate([first.values, second.values]))
        for first, second in zip(*counted, strict=True)
    ]
    return DataProfile.fit(chooses, joined, tested=len(data.test))


def read_field_values(
    data: ClickData | SequenceData | ArrayData, signature: Signature, rows: Rows
) -> tuple[FieldValues, ...]:
    """Return the fields and labels of some `rows` of `data`, a sample where there are very many."""
    rows = rows if len(rows) <= MOST_ROWS else rows.sample(MOST_ROWS, seed=0)
    if isinstance(data, SequenceData):
        return _items(rows.inputs[HISTORY], rows.labels[NEXT_ITEM])
    inputs = _encoded(data.encoder, rows) if isinstance(data, ClickData) else _plain(signature.inputs, rows)
    return (*inputs, *(FieldValues(f"label {name}", values, ids=False) for name, values in rows.labels.items()))


def _items(histories: np.ndarray, targets: np.ndarray) -> tuple[FieldValues, ...]:
    """An unknown item is left out of a history, and 0 as the next one."""
    return FieldValues(HISTORY, histories, ids=True, padding=0), FieldValues(NEXT_ITEM, targets, ids=True, unknown=0)


def _encoded(encoder: Encoder, rows: Rows) -> Iterator[FieldValues]:
    schema = encoder.schema
    for name in schema.categorical:
        yield FieldValues(name, rows.inputs[name], ids=True, unknown=0)
    for field in schema.multi_valued:
        yield FieldValues(field.name, rows.inputs[field.name], ids=True, padding=0, unknown=1)
    for position, name in enumerate(schema.numeric):
        values = rows.inputs[NUMERIC][:, position] * encoder.stds[name] + encoder.means[name]
        yield FieldValues(name, values, ids=False)


def _plain(inputs: Sequence[Input], rows: Rows) -> Iterator[FieldValues]:
    """Columns of a matrix are fields of their own, unless one range of ids is valid for all of it."""
    for tensor in inputs:
        values = rows.inputs[tensor.name]
        if len(tensor.ids) == 1 or values.ndim == 1:
            yield FieldValues(tensor.name, values, ids=bool(tensor.ids) and tensor.ids[0] is not None)
            continue
        for position in range(values.shape[-1]):
            ids = bool(tensor.ids) and tensor.ids[position] is not None
            yield FieldValues(f"{tensor.name}[{position}]", values[..., position], ids)
