"""Read new rows as the model takes them, and select those that a bundle is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recprune_export.data.arrays import ArrayData
from recprune_export.data.clicks import ClickData
from recprune_export.data.distribution.data_profile import FieldValues
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.labels import LabelKind
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import SequenceData, SequenceEncoder
from recprune_export.data.tabular_files import scan
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.profile_rows import read_field_values
from recprune_export.finetuning.task import (
    CLICK_DEFAULTS,
    RANKING_DEFAULTS,
    LabeledRows,
    NextItems,
    read_arrays,
    read_encoded,
)
from recprune_export.pipeline.compress import apply_finetuning_settings
from recprune_export.program.program import Program
from recprune_export.settings import (
    DEFAULT_EVALUATION_SETTINGS,
    DEFAULT_LABEL_SETTINGS,
    EvaluationSettings,
    FineTuningSettings,
    LabelSettings,
)


@dataclass(frozen=True)
class NewRows:
    """`task` tunes on the new rows; of `evaluation_task` both the validation and the test rows are those to measure on.

    `description` says in words which they are.
    """

    task: LabeledRows | NextItems
    evaluation_task: LabeledRows | NextItems
    description: str
    columns: tuple[FieldValues, ...]

    @property
    def count(self) -> int:
        """How many rows are measured on."""
        return len(self.evaluation_task.data.test)


def read_new_rows(
    data: Path,
    program: Program,
    encoder: Encoder | SequenceEncoder | None,
    labels: tuple[str, ...],
    finetuning: FineTuningSettings,
    seed: int = 0,
    label_settings: LabelSettings = DEFAULT_LABEL_SETTINGS,
    label_kinds: Mapping[str, LabelKind] | None = None,
    evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS,
) -> NewRows:
    """Read `data` as `program` takes it: encoded with `encoder`, or as arrays where there is none.

    `label_kinds` are those of the labels of arrays, where they are known; `evaluation` names the metrics.

    Where a column divides the rows, the test rows are measured on; else all of them, and of each history the last item.

    Raises `DataError` where something is missing.
    """
    task: LabeledRows | NextItems
    rows: ClickData | SequenceData | ArrayData
    if encoder is None:
        rows = read_arrays(data, program.signature, labels, seed, label_settings, label_kinds, evaluation.group)
    else:
        rows = read_encoded(data, _split_at_random_without_column(encoder, data), label_settings, evaluation.group)
    if isinstance(rows, SequenceData):
        objective = make_objective(program, labels)
        task = NextItems(rows, objective, apply_finetuning_settings(RANKING_DEFAULTS, finetuning), evaluation)
    else:
        objective = make_objective(program, labels, rows.label_values)
        task = LabeledRows(rows, objective, apply_finetuning_settings(CLICK_DEFAULTS, finetuning), evaluation)
    evaluation_task, description = _select_evaluation_rows(task)
    columns = read_field_values(task.data, program.signature, evaluation_task.data.test, task.objective.label_kinds)
    return NewRows(task, evaluation_task, description, columns)


def _split_at_random_without_column(encoder: Encoder | SequenceEncoder, data: Path) -> Encoder | SequenceEncoder:
    """Return the encoder without its split column where `data` has none, as new rows seldom do."""
    column = encoder.schema.split.column
    if column is None or column in scan(data).collect_schema().names():
        return encoder
    split = replace(encoder.schema.split, column=None)
    return replace(encoder, schema=replace(encoder.schema, split=split))


def _select_evaluation_rows(task: LabeledRows | NextItems) -> tuple[LabeledRows | NextItems, str]:
    if isinstance(task, NextItems):
        return replace(task, data=replace(task.data, valid=task.data.test)), "the last item of each history"
    data, rows = task.data, task.data.test
    has_column = data.encoder.schema.split.column is not None if isinstance(data, ClickData) else data.has_split_column
    if not has_column:
        rows = _concatenate([data.train, data.valid, data.test])
    evaluation_data: ClickData | ArrayData = replace(data, valid=rows, test=rows)
    return replace(task, data=evaluation_data), "its test rows" if has_column else "all of its rows"


def _concatenate(splits: list[Rows]) -> Rows:
    weights, groups = (
        [values for values in column if values is not None]
        for column in ([split.weights for split in splits], [split.groups for split in splits])
    )
    return Rows(
        {name: np.concatenate([split.inputs[name] for split in splits]) for name in splits[0].inputs},
        {name: np.concatenate([split.labels[name] for split in splits]) for name in splits[0].labels},
        weights=np.concatenate(weights) if weights else None,
        groups=np.concatenate(groups) if groups else None,
    )
