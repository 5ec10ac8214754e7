"""Read new rows in the form of the model's inputs, and select those on which a bundle is measured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from recprune_export.data.arrays import ArrayData
from recprune_export.data.clicks import ClickData
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.distribution.data_profile import FieldValues
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.joined_rows import join_rows
from recprune_export.data.labels import LabelKind
from recprune_export.data.named_columns import open_columns
from recprune_export.data.row_source import RowSource
from recprune_export.data.sequences import SequenceData, SequenceEncoder
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import read_column_names
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
    DataSettings,
    EvaluationSettings,
    RowSettings,
    Settings,
    SplitSettings,
)


@dataclass(frozen=True)
class NewRows:
    """`task` tunes on the new rows; in `evaluation_task`, the validation rows and the test rows are both the rows for measurement.

    `description` describes these.
    """

    task: LabeledRows | NextItems
    evaluation_task: LabeledRows | NextItems
    description: str
    columns: tuple[FieldValues, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about values that are unknown to the encoder."""
        data = self.task.data
        return data.notes if isinstance(data, ClickData | SequenceData) else ()

    @property
    def count(self) -> int:
        """The number of rows for measurement."""
        return len(self.evaluation_task.data.test)


def read_new_rows(
    data: DataFile,
    program: Program,
    encoder: Encoder | SequenceEncoder | None,
    labels: tuple[str, ...],
    settings: Settings,
    label_kinds: Mapping[str, LabelKind] | None = None,
) -> NewRows:
    """Read `data` in the form of the inputs of `program`: encoded with `encoder`, or as arrays without one. `label_kinds` are those of
    the labels of arrays, if known.

    If a column splits the rows, the test rows are used for measurement, otherwise all rows; for histories, the test items.

    Raises `DataError` if something is missing, `UsageError` if the encoder names another split than the settings.
    """
    task: LabeledRows | NextItems
    rows: ClickData | SequenceData | ArrayData
    if encoder is None:
        rows = read_arrays(data, program, labels, settings.seed, settings.rows, label_kinds)
    else:
        rows = read_encoded(data, _split_at_random_without_column(encoder, data, settings.reading), settings.rows)
    if isinstance(rows, SequenceData):
        objective = make_objective(program, labels)
        config = apply_finetuning_settings(RANKING_DEFAULTS, settings.finetuning)
        task = NextItems(rows, objective, config, settings.evaluation)
    else:
        objective = make_objective(program, labels, rows.label_values)
        config = apply_finetuning_settings(CLICK_DEFAULTS, settings.finetuning)
        task = LabeledRows(rows, objective, config, settings.evaluation)
    evaluation_task, description = _select_evaluation_rows(task)
    columns = read_field_values(task.data, program.signature, evaluation_task.data.test, task.objective.label_kinds)
    return NewRows(task, evaluation_task, description, columns)


def override_row_settings(
    settings: Settings, data: DataFile, rows: RowSettings, evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS
) -> Settings:
    """Return the settings of a bundle for the rows of `data`: how they are read, split and measured, if this is given."""
    given = {name: value for name, value in asdict(rows.labels).items() if value is not None}
    given |= asdict(rows.split if rows.split.options else keep_column_of_data(settings.split, data, rows.reading))
    given |= asdict(rows.reading)
    if evaluation.metrics:
        given |= asdict(evaluation)
    return settings.with_options(**given)


def keep_column_of_data(split: SplitSettings, data: DataFile, reading: DataSettings) -> SplitSettings:
    """Return the split of a bundle, or a random one if `data` does not have its column, since new rows rarely do."""
    column = split.split or split.split_by_time or split.split_by_user
    return split if column is None or column in open_columns(data, reading).names else SplitSettings()


def _split_at_random_without_column(
    encoder: Encoder | SequenceEncoder, data: DataFile, reading: DataSettings
) -> Encoder | SequenceEncoder:
    """Return the encoder without the column of its split if `data` does not have it, since new rows rarely do."""
    source = encoder.schema.split.source
    if source is None or source in read_column_names(data, CsvOptions(reading.separator, reading.encoding)):
        return encoder
    split = replace(encoder.schema.split, column=None, time=None, user=None)
    return replace(encoder, schema=replace(encoder.schema, split=split))


def _select_evaluation_rows(task: LabeledRows | NextItems) -> tuple[LabeledRows | NextItems, str]:
    if isinstance(task, NextItems):
        description = "the test items of histories split " + task.data.split_description
        return replace(task, data=replace(task.data, valid=task.data.test)), description
    data: ClickData | ArrayData = task.data
    rows: RowSource = data.test
    has_column = data.encoder.schema.split.source is not None if isinstance(data, ClickData) else data.has_split_column
    if not has_column:
        rows = join_rows([data.train, data.valid, data.test])
    evaluation_data = replace(data, valid=rows, test=rows)
    description = f"its test rows, split {data.split_description}" if has_column else "all of its rows"
    return replace(task, data=evaluation_data), description
