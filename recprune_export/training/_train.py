"""`train`: training of a reference recommender from a data file to a checkpoint."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.data.batch import ROW_WEIGHTS
from recprune_export.data.clicks import ClickData, load_clicks
from recprune_export.data.encoding.encoder import Request as Arrays
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.histories.history_source import shuffle_histories
from recprune_export.data.label_moments import RowMoments, measure_labels
from recprune_export.data.labels import LabelKind
from recprune_export.data.rows import Ragged, Rows
from recprune_export.data.schema._infer_schema import (
    SchemaOverrides,
    infer_schema,
    infer_sequence_schema,
    summarize_sequence,
)
from recprune_export.data.schema.column_summary import ColumnSummary
from recprune_export.data.sequences import NEXT_ITEM, SequenceData, load_sequences
from recprune_export.data.splits.row_split import SplitSizes
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.distributed.collectives import sum_integer
from recprune_export.distributed.layers_over_ranks import layers_over_ranks
from recprune_export.distributed.main_process import call_on_main, leave_to_main
from recprune_export.distributed.ranks import is_divided, rank, world_size
from recprune_export.distributed.row_shards import count_numbers
from recprune_export.distributed.sharded_embedding import gather_state, sharded_tables
from recprune_export.distributed.shares import add_losses, gather_answers, share_prediction, take_share
from recprune_export.errors import UsageError
from recprune_export.metrics.evaluator import make_evaluator
from recprune_export.metrics.observations import LabelPredictor, observe
from recprune_export.output_files import check_free_space, check_output_file
from recprune_export.recommenders.catalogue import build_recommender, is_multi_task, is_sequential
from recprune_export.recommenders.input_spec import InputSpec
from recprune_export.recommenders.sasrec import SCORES, SASRec
from recprune_export.settings import DEFAULT_EVALUATION_SETTINGS, DataSettings, EvaluationSettings, LabelSettings
from recprune_export.training.baseline import (
    describe_failure_to_learn,
    predict_item_frequencies,
    predict_label_means,
)
from recprune_export.training.checkpoint import Checkpoint
from recprune_export.training.label_losses import RowLosses, mean_label_loss
from recprune_export.training.loop import FitResult, fit
from recprune_export.training.optimizers import make_optimizer


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of training."""

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int = 0


CLICK_CONFIG = TrainingConfig(epochs=15, batch_size=1024, learning_rate=1e-3, patience=2)
SEQUENCE_CONFIG = TrainingConfig(epochs=60, batch_size=128, learning_rate=1e-3, patience=5)


NO_OVERRIDES = SchemaOverrides()


@dataclass(frozen=True)
class TrainingResult:
    """The checkpoint as written to `path`, the epochs, the metric that selected one, and the notes about the data."""

    path: Path
    checkpoint: Checkpoint
    fitted: FitResult
    rows: int
    sizes: SplitSizes
    parameters: int
    metric: str
    notes: tuple[str, ...]


def train(
    data: DataFile,
    recommender: str,
    output: Path,
    overrides: SchemaOverrides = NO_OVERRIDES,
    config: dict[str, Any] | None = None,
    evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS,
    *,
    stream: bool | None = None,
    readers: int = 0,
    **recipe: Any,
) -> TrainingResult:
    """Train a reference recommender on CSV or Parquet files and write its checkpoint to `output`.

    `data` is a file, a folder or glob of files, or the address of an object store (`find_data_files`).

    `config` holds options of the recommender (`dim`, `hidden`, ...), `evaluation` the metrics, of which the first selects
    the epoch, `recipe` fields of `TrainingConfig`. The same seed on
    the same machine gives the same weights. `stream` and `readers` are those of `DataSettings`: rows that would take much memory
    are encoded once into temporary files, and read from there.

    Raises `UsageError` for invalid options, `DataError` for an invalid file.
    """
    call_on_main(partial(check_output_file, output))
    config = dict(config or {})
    sequential = is_sequential(recommender)
    _refuse_unused_options(recommender, overrides, is_sequential=sequential)
    if not sequential:
        _check_labels(recommender, overrides.labels)
    hyperparameters = replace(SEQUENCE_CONFIG if sequential else CLICK_CONFIG, **recipe)
    torch.manual_seed(hyperparameters.seed)
    reading = DataSettings(overrides.separator, overrides.encoding, stream=stream, readers=readers)
    if sequential:
        LabelSettings(overrides.weight, overrides.missing_label).refuse_for_histories()
        sequences = _load_sequences(data, overrides, reading)
        notes = sequences.encoder.notes
        return _train(_Sequences(sequences), recommender, config, evaluation, hyperparameters, output, notes)
    clicks = _load_clicks(data, overrides, evaluation.group, reading)
    notes = (*clicks.encoder.notes, *_describe_value_labels(clicks))
    return _train(_Clicks(clicks), recommender, config, evaluation, hyperparameters, output, notes)


def _refuse_unused_options(recommender: str, overrides: SchemaOverrides, *, is_sequential: bool) -> None:
    """Raise `UsageError` for an option of the other kind of rows: labeled rows with fields, or a log of interactions."""
    roles: Mapping[str, object]
    if is_sequential:
        roles = {name: overrides.columns[name] for name in ("--label", "--categorical", "--numeric", "--multi-valued")}
        reason = "reads a log of user, item and order (--sequence) and learns the next item of each user"
    else:
        roles = {"--sequence": overrides.sequence, "--max-length": overrides.max_length}
        reason = "reads labeled rows with fields; --recommender sasrec reads a log"
    unused = next((option for option, value in roles.items() if value), None)
    if unused is not None:
        raise UsageError(f"{unused} has no effect: {recommender} {reason}. Leave out {unused}.")


def _load_clicks(data: DataFile, overrides: SchemaOverrides, group: str | None, reading: DataSettings) -> ClickData:
    """Read rows with an encoder that records how each column was read."""
    inferred = infer_schema(data, overrides)
    clicks = load_clicks(data, inferred.schema, group=group, reading=reading)
    columns = _count_values(inferred.columns, clicks.encoder.vocabularies)
    notes = (*inferred.notes, *clicks.notes)
    return replace(clicks, encoder=replace(clicks.encoder, summaries=columns, notes=notes))


def _load_sequences(data: DataFile, overrides: SchemaOverrides, reading: DataSettings) -> SequenceData:
    """Read a log with an encoder that records how each column was read."""
    schema = infer_sequence_schema(data, overrides)
    sequences = load_sequences(data, schema, reading=reading)
    encoder, columns = sequences.encoder, summarize_sequence(data, schema, overrides.csv_options)
    columns = _count_values(columns, {encoder.columns.item: encoder.items})
    return replace(sequences, encoder=replace(encoder, summaries=columns, notes=sequences.notes))


def _count_values(
    columns: tuple[ColumnSummary, ...], vocabularies: Mapping[str, Vocabulary]
) -> tuple[ColumnSummary, ...]:
    """Return the summaries with the number of values with an id."""
    return tuple(replace(c, values=len(vocabularies[c.name].values)) if c.name in vocabularies else c for c in columns)


def make_label_predictor(module: nn.Module, spec: InputSpec) -> LabelPredictor:
    """Return a function for `evaluate`: probabilities or numbers by label, or the scores of all items."""

    def predict(request: Arrays) -> dict[str, np.ndarray]:
        module.eval()
        with torch.no_grad():
            answer = module({name: torch.from_numpy(values) for name, values in request.items()})
        if spec.items:
            return {NEXT_ITEM: answer[SCORES].numpy()}
        answers = {label: answer[label].double() for label in spec.labels}
        return {
            label: (value if label in spec.value_scales else value.sigmoid()).numpy()
            for label, value in answers.items()
        }

    return predict


@dataclass(frozen=True)
class _Clicks:
    """Rows with labels, trained with the sum over labels of the binary cross entropy, or the squared error for numbers.

    The squared error is divided by the variance of the label, so that labels in any unit have equal weight.
    """

    data: ClickData

    @property
    def spec(self) -> InputSpec:
        schema, rows = self.data.encoder.schema, self.data.encoder.rows
        return InputSpec(
            categorical={name: rows[name] for name in schema.categorical},
            multi_valued={field.name: rows[field.name] for field in schema.multi_valued},
            lengths={field.name: field.max_length for field in schema.multi_valued},
            n_numeric=len(schema.dense_columns),
            labels=schema.labels,
            value_scales=self._scales(),
        )

    @cached_property
    def _moments(self) -> RowMoments:
        return measure_labels(self.data.train)

    def _scales(self) -> dict[str, tuple[float, float]]:
        """Return mean and standard deviation of the labels that are numbers."""
        names = self.data.encoder.schema.value_labels
        return {name: (self._moments.labels[name].mean, self._moments.labels[name].deviation) for name in names}

    @property
    def label_kinds(self) -> dict[str, LabelKind]:
        return dict(self.data.encoder.schema.label_kinds)

    @property
    def size(self) -> int:
        return len(self.data.train)

    @property
    def baseline(self) -> LabelPredictor:
        return predict_label_means(self._moments)

    def batches(self, size: int, seed: int) -> Iterator[Rows]:
        return self.data.train.batches(size, seed, rank=rank(), world_size=world_size())

    @staticmethod
    def loss(module: nn.Module, batch: Rows, scales: Mapping[str, tuple[float, float]]) -> Tensor:
        outputs = module({name: torch.from_numpy(values) for name, values in batch.inputs.items()})
        labels = {name: torch.from_numpy(label) for name, label in batch.labels.items()}
        given = {} if batch.weights is None else {ROW_WEIGHTS: torch.from_numpy(batch.weights)}
        outputs, labels, given = gather_answers([outputs, labels, given])
        losses = [
            mean_label_loss(_row_losses(scales.get(name)), outputs[name], label, given.get(ROW_WEIGHTS))
            for name, label in labels.items()
        ]
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class _Sequences:
    """Histories in which every position predicts the item that follows."""

    data: SequenceData

    @property
    def spec(self) -> InputSpec:
        encoder = self.data.encoder
        return InputSpec(items=encoder.items.rows, max_length=encoder.columns.max_length, labels=(NEXT_ITEM,))

    @property
    def label_kinds(self) -> dict[str, LabelKind]:
        return {NEXT_ITEM: LabelKind.NEXT_ITEM}

    @property
    def size(self) -> int:
        return len(self.data.train)

    @property
    def baseline(self) -> LabelPredictor:
        return predict_item_frequencies(self.data.train, self.data.encoder.items.rows)

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for histories in shuffle_histories(self.data.train, size, np.random.default_rng(seed), seed):
            own = histories.take(take_share(np.arange(len(histories))))
            yield shift_histories(own, self.data.encoder.columns.max_length)

    @staticmethod
    def loss(module: nn.Module, batch: tuple[Tensor, Tensor], scales: Mapping[str, tuple[float, float]]) -> Tensor:
        assert isinstance(module, SASRec)
        if not is_divided():
            return module.training_loss(*batch)
        return add_losses(module.training_loss(*batch, sum_integer(int((batch[1] > 0).sum()))))


def _row_losses(scale: tuple[float, float] | None) -> RowLosses:
    return _LOGIT_LOSSES if scale is None else lambda output, label: ((output - label) / scale[1]).square()


_LOGIT_LOSSES = partial(F.binary_cross_entropy_with_logits, reduction="none")


def _describe_value_labels(clicks: ClickData) -> Iterator[str]:
    for name in clicks.encoder.schema.value_labels:
        values = clicks.label_values[name].describe()
        yield f"The label '{name}' contains {values}, so the model is trained on the number with the squared error."


def shift_histories(histories: Ragged, length: int) -> tuple[Tensor, Tensor]:
    """Return the histories [B, L] and the item that follows each of their positions [B, L], 0 if there is none."""
    whole = torch.from_numpy(histories.pad_left(length + 1))
    history, following = whole[:, :-1], whole[:, 1:]
    return history, torch.where(history > 0, following, 0)


def _train(
    data: _Clicks | _Sequences,
    recommender: str,
    config: dict[str, Any],
    evaluation: EvaluationSettings,
    hyperparameters: TrainingConfig,
    output: Path,
    notes: tuple[str, ...],
) -> TrainingResult:
    spec, valid, test = data.spec, data.data.valid, data.data.test
    evaluator = make_evaluator(evaluation, data.label_kinds)
    deciding = evaluator.require_deciding(valid, "valid")
    with sharded_tables():
        module = build_recommender(recommender, spec, config)
    parameters = sum(count_numbers(p) for p in module.parameters())
    call_on_main(partial(check_free_space, {output: 4 * parameters}, "the checkpoint"))
    predict, baseline = (
        share_prediction(make_label_predictor(module, spec)),
        observe(data.baseline, valid, evaluator.kinds),
    )
    optimizer = make_optimizer(module, hyperparameters.batch_size, hyperparameters.learning_rate)

    def loss(batch: Any) -> Tensor:
        module.train()
        return data.loss(module, batch, spec.value_scales)

    def evaluate() -> float:
        optimizer.catch_up()
        return deciding.compute(observe(predict, valid, evaluator.kinds))

    with optimizer.deferred(), layers_over_ranks(module):
        fitted = fit(
            module,
            batches=lambda epoch: data.batches(hyperparameters.batch_size, hyperparameters.seed * 1000 + epoch),
            loss=loss,
            evaluate=evaluate,
            greater_is_better=deciding.metric.greater_is_better,
            baseline=deciding.compute(baseline),
            optimizers=[optimizer],
            epochs=hyperparameters.epochs,
            patience=hyperparameters.patience,
            steps_per_epoch=math.ceil(data.size / hyperparameters.batch_size),
            rows_per_step=min(hyperparameters.batch_size, data.size),
            description=f"Training {recommender}",
        )
    metrics = evaluator.evaluate(predict, test)
    trained = observe(predict, valid, evaluator.kinds)
    state = gather_state(module)
    leave_to_main()
    checkpoint = Checkpoint(recommender, config, spec, data.data.encoder, state, metrics, hyperparameters.seed)
    checkpoint.save(output)
    failure = describe_failure_to_learn(deciding, baseline, trained)
    notes = (*notes, *evaluator.notes({"valid": valid, "test": test}), *((failure,) if failure else ()))
    return TrainingResult(output, checkpoint, fitted, data.size, data.data.sizes, parameters, deciding.name, notes)


def _check_labels(recommender: str, labels: tuple[str, ...]) -> None:
    if not labels:
        raise UsageError(f"{recommender} requires a label: give its column with --label.")
    if len(labels) > 1 and not is_multi_task(recommender):
        raise UsageError(f"{recommender} supports one label, not {len(labels)}; mmoe supports several.")
