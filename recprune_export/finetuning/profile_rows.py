"""Fields of the rows of a task, and their profile, which is saved in the bundle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from recprune_export.data.arrays import ArrayData
from recprune_export.data.clicks import ClickData
from recprune_export.data.distribution.data_profile import DataProfile, FieldValues
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.input_encoding import HISTORY, NUMERIC
from recprune_export.data.histories.history_source import take_first_items
from recprune_export.data.labels import LabelKind
from recprune_export.data.list_columns import ABSENT
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM, SequenceData
from recprune_export.finetuning.task import LabeledRows, NextItems, Task
from recprune_export.program.signature import Input, Signature

MAX_PROFILE_ROWS = 200_000  # of a sample: they determine shares to a thousandth


def make_data_profile(task: Task, signature: Signature) -> DataProfile | None:
    """Return the profile of the rows of a task; None if it has none."""
    if not isinstance(task, LabeledRows | NextItems):
        return None
    data = task.data
    if isinstance(data, SequenceData):
        items = take_first_items(data.train, MAX_PROFILE_ROWS)
        reference = _read_items(items, items)
    else:
        reference = read_field_values(data, signature, data.train, task.objective.label_kinds)
    splits = [read_field_values(data, signature, rows, task.objective.label_kinds) for rows in (data.valid, data.test)]
    held_out = [
        replace(first, values=np.concatenate([first.values, second.values]))
        for first, second in zip(*splits, strict=True)
    ]
    return DataProfile.fit(reference, held_out, tested=len(data.test))


def read_field_values(
    data: ClickData | SequenceData | ArrayData,
    signature: Signature,
    rows: RowSource,
    label_kinds: Mapping[str, LabelKind] | None = None,
) -> tuple[FieldValues, ...]:
    """Return the fields and labels of `rows` of `data`, from a sample of at most `MAX_PROFILE_ROWS` rows.

    Labels are numbers, those of classes are ids.
    """
    rows = rows.sample(MAX_PROFILE_ROWS, seed=0)
    if isinstance(data, SequenceData):
        return _read_items(rows.inputs[HISTORY], rows.labels[NEXT_ITEM])
    kinds = label_kinds or {}
    return (
        *read_fields(data, signature, rows),
        *(_read_label(name, values, kinds.get(name)) for name, values in rows.labels.items()),
    )


def read_fields(data: ClickData | ArrayData, signature: Signature, rows: Rows) -> Iterator[FieldValues]:
    """Return the fields of `rows` of `data`, all of them."""
    if isinstance(data, ClickData):
        return _read_encoded(data.encoder, rows)
    return _read_inputs(signature.inputs, rows)


def _read_label(name: str, values: np.ndarray, kind: LabelKind | None) -> FieldValues:
    if kind is LabelKind.CLASSES:
        return FieldValues(f"label {name}", values[~np.isnan(values)], ids=True)
    return FieldValues(f"label {name}", values, ids=False)


def _read_items(histories: np.ndarray, targets: np.ndarray) -> tuple[FieldValues, ...]:
    """Return histories and next items as fields: unknown items are removed from a history, and 0 as the next one."""
    return FieldValues(HISTORY, histories, ids=True, padding=0), FieldValues(NEXT_ITEM, targets, ids=True, unknown=0)


def _read_encoded(encoder: Encoder, rows: Rows) -> Iterator[FieldValues]:
    schema = encoder.schema
    for name in schema.categorical:
        yield FieldValues(name, rows.inputs[name], ids=True, unknown=0)
    for field in schema.multi_valued:
        yield FieldValues(field.name, rows.inputs[field.name], ids=True, padding=0, unknown=1)
    for position, name in enumerate(schema.numeric):
        values = rows.inputs[NUMERIC][:, position] * encoder.stds[name] + encoder.means[name]
        yield FieldValues(name, values, ids=False)
    first = len(schema.numeric)
    for vector in schema.vectors:  # all numbers of a vector together, as they are standardized
        yield FieldValues(vector.name, rows.inputs[NUMERIC][:, first : first + vector.size], ids=False)
        first += vector.size


def _read_inputs(inputs: Sequence[Input], rows: Rows) -> Iterator[FieldValues]:
    """Yield the fields of inputs: each column of a matrix is a field, unless one range of ids is valid for all of it."""
    for tensor in inputs:
        values = rows.inputs[tensor.name]
        if tensor.jagged is not None:
            ids = bool(tensor.ids)
            numbers = np.where(values == ABSENT, np.nan, values) if values.dtype.kind in "iu" and not ids else values
            yield FieldValues(tensor.name, numbers, ids=ids, padding=ABSENT if ids else None)
            continue
        if len(tensor.ids) == 1 or values.ndim == 1:
            yield FieldValues(tensor.name, values, ids=bool(tensor.ids) and tensor.ids[0] is not None)
            continue
        for position in range(values.shape[-1]):
            ids = bool(tensor.ids) and tensor.ids[position] is not None
            yield FieldValues(f"{tensor.name}[{position}]", values[..., position], ids)
