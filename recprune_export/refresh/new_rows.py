"""The new rows, read as the model takes them, and those among them that a bundle is measured on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recprune_export.data.arrays import ArrayData
from recprune_export.data.clicks import ClickData
from recprune_export.data.distribution.data_profile import FieldValues
from recprune_export.data.encoding.encoder import Encoder
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
from recprune_export.pipeline.compress import make_recipe
from recprune_export.program.program import Program
from recprune_export.settings import Settings


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
    data: Path, program: Program, encoder: Encoder | SequenceEncoder | None, labels: tuple[str, ...], settings: Settings
) -> NewRows:
    """Read `data` as `program` takes it: encoded with `encoder`, or as arrays where there is none.

    Where a column divides the rows, the test rows are measured on; else all of them, and of each history the last item.

    Raises `DataError` where something is missing.
    """
    objective = make_objective(program, labels)
    task: LabeledRows | NextItems
    if encoder is None:
        arrays = read_arrays(data, program.signature, labels, settings.seed)
        task = LabeledRows(arrays, objective, make_recipe(CLICK_DEFAULTS, settings))
    else:
        read = read_encoded(data, _divided_by_chance_where_needed(encoder, data))
        if isinstance(read, SequenceData):
            task = NextItems(read, objective, make_recipe(RANKING_DEFAULTS, settings))
        else:
            task = LabeledRows(read, objective, make_recipe(CLICK_DEFAULTS, settings))
    measured, which = _measured(task)
    return NewRows(task, measured, which, read_field_values(task.data, program.signature, measured.data.test))


def _divided_by_chance_where_needed(encoder: Encoder | SequenceEncoder, data: Path) -> Encoder | SequenceEncoder:
    """New rows seldom have the column that divided the old ones."""
    column = encoder.schema.split.column
    if column is None or column in scan(data).collect_schema().names():
        return encoder
    split = replace(encoder.schema.split, column=None)
    return replace(encoder, schema=replace(encoder.schema, split=split))


def _measured(task: LabeledRows | NextItems) -> tuple[LabeledRows | NextItems, str]:
    if isinstance(task, NextItems):
        return replace(task, data=replace(task.data, valid=task.data.test)), "the last item of each history"
    data, rows = task.data, task.data.test
    named = data.encoder.schema.split.column is not None if isinstance(data, ClickData) else data.has_split_column
    if not named:
        rows = _joined([data.train, data.valid, data.test])
    measured: ClickData | ArrayData = replace(data, valid=rows, test=rows)
    return replace(task, data=measured), "its test rows" if named else "all of its rows"


def _joined(parts: list[Rows]) -> Rows:
    return Rows(
        {name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
    )
