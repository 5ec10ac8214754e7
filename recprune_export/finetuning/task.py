"""`Task`: the rows on which a pruned program is tuned and evaluated, independent of their source."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recprune_export.data.arrays import ArrayData, load_arrays
from recprune_export.data.batch import ROW_WEIGHTS, Batch
from recprune_export.data.clicks import ClickData, load_clicks
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.encoder import Request as Arrays
from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.data.histories.history_source import cut_batches, shuffle_histories
from recprune_export.data.labels import LabelKind
from recprune_export.data.named_columns import Columns
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Ragged
from recprune_export.data.sequences import NEXT_ITEM, SequenceData, SequenceEncoder, load_sequences
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.distributed.ranks import is_divided, rank, world_size
from recprune_export.distributed.shares import ORDER, gather_answers, share_prediction, take_share
from recprune_export.errors import ModelError, UsageError
from recprune_export.finetuning.all_positions import POSITIONS, find_positions, make_all_positions_program
from recprune_export.finetuning.finetuning_constants import CUTS, MAX_SCORES, SAMPLED_STEPS
from recprune_export.finetuning.finite_requests import find_finite_rows
from recprune_export.finetuning.objective import Objective, OutputKind
from recprune_export.metrics._paired_change import MetricChange, paired_change
from recprune_export.metrics.deciding_metric import DecidingMetric
from recprune_export.metrics.evaluator import Evaluator, make_evaluator
from recprune_export.metrics.observations import LabelPredictor, Observations, RowFilter, observe
from recprune_export.metrics.quality_comparison import IdFrequencies, QualityComparison, compare_quality
from recprune_export.program.program import Program, sample_request_rows
from recprune_export.program.requests.row_specs import make_array_spec
from recprune_export.program.requests.share_request import share_request
from recprune_export.program.signature import BATCH
from recprune_export.settings import (
    DEFAULT_EVALUATION_SETTINGS,
    DEFAULT_ROW_SETTINGS,
    EvaluationSettings,
    RowSettings,
)


@dataclass(frozen=True)
class FineTuningConfig:
    """The default hyperparameters of fine-tuning."""

    epochs: int
    learning_rate: float
    batch_size: int


CLICK_DEFAULTS = FineTuningConfig(epochs=3, learning_rate=2e-3, batch_size=1024)
DISTANCE = "negative distance from the dense model's answers"  # the validation metric without rows
# A row of scores is as long as the item table.
RANKING_DEFAULTS = FineTuningConfig(epochs=6, learning_rate=1e-2, batch_size=128)


@dataclass(frozen=True)
class DistillationData:
    """The training data of a student: batches by the seed of an epoch, their number, and the teacher.

    With several processes, each gets its share of every batch. `student` and `teacher` may be variants of the original programs with the
    same parameters and other inputs.
    """

    student: Program
    teacher: Program
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int

    def loss(self, objective: Objective, batch: Batch) -> Tensor:
        """Return the loss of the student against labels and teacher on a batch, as a scalar.

        With several processes, each has its share of the batch, and gets the loss of the whole batch.
        """
        request, labels = batch
        with torch.no_grad():
            targets = self.teacher(request)
        answers, targets, labels = gather_answers([self.student(request), targets, labels], labels.get(ORDER))
        return objective.loss(answers, targets, labels)


class Task(Protocol):
    """Batches for tuning, a validation metric, and a comparison of models on test rows."""

    @property
    def config(self) -> FineTuningConfig:
        """The default hyperparameters for this kind of rows."""
        ...

    @property
    def objective(self) -> Objective:
        """The kinds of the outputs, and the loss of a response."""
        ...

    def training_batches(self, seed: int, *, divided: bool = False) -> Iterator[Batch]:
        """Yield the training rows once, in the form of the inputs of a program; with `divided`, only the share of this process of each
        batch."""
        ...

    def distillation_data(self, student: Program, teacher: Program) -> DistillationData:
        """Return the training data of `student`."""
        ...

    @property
    def metric_name(self) -> str:
        """The name of the validation metric."""
        ...

    @property
    def greater_is_better(self) -> bool:
        """Whether larger values of the validation metric are better."""
        ...

    def validate(self, program: Program) -> float:
        """Return the validation metric of `program`, which is in eval mode."""
        ...

    def change(self, before: "AnswerFunction", after: "AnswerFunction") -> MetricChange:
        """Compare two models on the validation rows.

        Raises `UsageError` if there are none.
        """
        ...

    def compare_on_test(
        self, dense: "AnswerFunction", pruned: "AnswerFunction", frequencies: IdFrequencies | None = None
    ) -> QualityComparison:
        """Compare two models on the test rows; `frequencies` are those of their ids in training."""
        ...

    def test(self, predict: "AnswerFunction", row_filter: RowFilter | None = None) -> dict[str, float]:
        """Return the test metrics of a model that answers requests; empty without labels.

        With `row_filter` only the rows that it selects count.
        """
        ...

    def requests(self, count: int, seed: int) -> Arrays:
        """Return up to `count` test rows."""
        ...


class AnswerFunction(Protocol):
    """A program or an ONNX session as a function of arrays."""

    def __call__(self, request: Arrays) -> Mapping[str, np.ndarray]: ...


class _EvaluatedRows:
    """The metrics of a task with labels: the validation rows decide, the test rows are reported."""

    data: ClickData | ArrayData | SequenceData
    objective: Objective
    evaluation: EvaluationSettings

    def _by_label(self, predict: AnswerFunction) -> LabelPredictor:
        """Return the predictions of a model by label."""
        raise NotImplementedError

    @cached_property
    def evaluator(self) -> Evaluator:
        """The metrics of the labels. Raises `UsageError` for metrics that do not fit them."""
        return make_evaluator(self.evaluation, self.objective.label_kinds)

    @cached_property
    def deciding(self) -> DecidingMetric:
        """The metric that selects the epoch and judges changes. Raises `DataError` if the validation rows define none."""
        return self.evaluator.require_deciding(self.data.valid, "valid")

    @property
    def metric_name(self) -> str:
        """The name of the deciding metric."""
        return self.deciding.name

    @property
    def greater_is_better(self) -> bool:
        """Whether larger values of the deciding metric are better."""
        return self.deciding.metric.greater_is_better

    @cached_property
    def metric_notes(self) -> tuple[str, ...]:
        """Sentences on metrics that are not defined."""
        return self.evaluator.notes({"valid": self.data.valid, "test": self.data.test})

    def validate(self, program: Program) -> float:
        """Return the deciding metric on the validation rows; all processes of a run call it together, and each evaluates a share."""
        predict = share_prediction(lambda request: run_program(program, request))
        return self.deciding.compute(self._observe(predict, self.data.valid))

    def change(self, before: AnswerFunction, after: AnswerFunction) -> MetricChange:
        """Compare the deciding metric of two models on the validation rows."""
        return paired_change(self.deciding, *(self._observe(model, self.data.valid) for model in (before, after)))

    def compare_on_test(
        self, dense: AnswerFunction, pruned: AnswerFunction, frequencies: IdFrequencies | None = None
    ) -> QualityComparison:
        """Compare all metrics of two models on the test rows."""
        rows = self.data.test
        return compare_quality(self.evaluator, self._observe(dense, rows), self._observe(pruned, rows), frequencies)

    def test(self, predict: AnswerFunction, row_filter: RowFilter | None = None) -> dict[str, float]:
        """Return the metrics that are defined on the test rows; empty without rows."""
        return self.evaluator.evaluate(self._by_label(predict), self.data.test, row_filter)

    def observe_test(self, predict: AnswerFunction) -> dict[str, Observations]:
        """Return the outputs of a model for the test rows, with their labels."""
        return self._observe(predict, self.data.test)

    def _observe(self, predict: AnswerFunction, rows: RowSource) -> dict[str, Observations]:
        return observe(self._by_label(predict), rows, self.evaluator.kinds)


@dataclass(frozen=True)
class LabeledRows(_EvaluatedRows):
    """Rows with labels, encoded for the reference recommenders or unchanged for other models."""

    data: ClickData | ArrayData
    objective: Objective
    config: FineTuningConfig
    evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how labels were read and are used, and on metrics that are not defined."""
        return (*self.data.notes, *self.objective.notes, *self.metric_notes)

    def training_batches(self, seed: int, *, divided: bool = False) -> Iterator[Batch]:
        """Yield all training rows, shuffled."""
        number, processes = (rank(), world_size()) if divided else (0, 1)
        for rows in self.data.train.batches(self.config.batch_size, seed, rank=number, world_size=processes):
            weights = {} if rows.weights is None else {ROW_WEIGHTS: rows.weights}
            yield to_tensors(rows.inputs), to_tensors({**rows.labels, **weights})

    def distillation_data(self, student: Program, teacher: Program) -> DistillationData:
        """Return all training rows."""
        steps = count_tuning_steps(len(self.data.train), self.config.batch_size)
        return DistillationData(student, teacher, partial(take_steps, steps, self.training_batches), steps)

    def requests(self, count: int, seed: int) -> Arrays:
        """Return test rows."""
        return self.data.test.sample(count, seed).inputs

    def _by_label(self, predict: AnswerFunction) -> LabelPredictor:
        def predictions(request: Arrays) -> dict[str, np.ndarray]:
            response = predict(request)
            return {
                label: predict_label(response[output], self.objective.output_kinds[output])
                for output, label in self.objective.output_labels.items()
            }

        return predictions


@dataclass(frozen=True)
class NextItems(_EvaluatedRows):
    """Histories of users, with the item that follows as the label."""

    data: SequenceData
    objective: Objective
    config: FineTuningConfig
    evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS

    def training_batches(self, seed: int, *, divided: bool = False) -> Iterator[Batch]:
        """Yield histories cut at random positions, each as many times as it has items, at most `CUTS` times; shuffled."""
        rng, length = np.random.default_rng(seed), self.data.encoder.columns.max_length

        def draw_users(histories: Ragged) -> np.ndarray:
            users = np.repeat(np.arange(len(histories)), _count_cuts(histories))
            rng.shuffle(users)
            return users

        windows = self.data.train.windows(seed)
        for histories in cut_batches(windows, self.config.batch_size, Ragged.concatenate, draw_users):
            batch = _truncate_histories(histories, length, rng)
            yield _share_histories(batch) if divided else batch

    def distillation_data(self, student: Program, teacher: Program) -> DistillationData:
        """Return whole histories with a target at each position; histories cut at random if the programs do not allow it.

        If scores of all items at all positions would not fit into memory, positions are sampled in each batch.
        """
        student_all, teacher_all = make_all_positions_program(student), make_all_positions_program(teacher)
        if student_all is None or teacher_all is None:
            cuts = sum(int(_count_cuts(histories).sum()) for histories in self.data.train.windows())
            steps = count_tuning_steps(cuts, self.config.batch_size)
            return DistillationData(student, teacher, partial(take_steps, steps, self.training_batches), steps)
        steps = math.ceil(len(self.data.train) / self.config.batch_size)
        return DistillationData(student_all, teacher_all, self._whole_histories, steps)

    def _whole_histories(self, seed: int) -> Iterator[Batch]:
        rng, length = np.random.default_rng(seed), self.data.encoder.columns.max_length
        most = max(self.config.batch_size, MAX_SCORES // self.data.encoder.items.rows)
        for histories in shuffle_histories(self.data.train, self.config.batch_size, rng, seed):
            yield _share_positions(_take_all_positions(histories, length, most, rng))

    def requests(self, count: int, seed: int) -> Arrays:
        """Return test rows."""
        return self.data.test.sample(count, seed).inputs

    def _by_label(self, predict: AnswerFunction) -> LabelPredictor:
        (output,) = self.objective.output_labels
        return lambda request: {NEXT_ITEM: predict(request)[output]}


@dataclass(frozen=True)
class SampledRequests:
    """Requests sampled from the signature, without rows, and the dense program as the only teacher."""

    teacher: Program
    objective: Objective
    config: FineTuningConfig
    metric_name: str = DISTANCE
    greater_is_better: bool = True

    @property
    def note(self) -> str:
        """A sentence on the origin of statistics and answers."""
        return (
            "No --data: the model was fine-tuned only towards the outputs of the dense model on random requests, and quality was "
            "not measured. Rows of real traffic give a better result and measure its quality."
        )

    def training_batches(self, seed: int, *, divided: bool = False) -> Iterator[Batch]:
        """Yield sampled requests."""
        for step in range(SAMPLED_STEPS):
            request = self._draw(self.config.batch_size, seed * SAMPLED_STEPS + step + 1)
            yield (share_request(self.teacher.signature, request) if divided else request), {}

    def distillation_data(self, student: Program, teacher: Program) -> DistillationData:
        """Return sampled requests."""
        return DistillationData(student, teacher, partial(self.training_batches, divided=True), SAMPLED_STEPS)

    def validate(self, program: Program) -> float:
        """Return the negative distance from the teacher on 2048 requests that are not used for training."""
        request = self._draw(2048, 0)
        with torch.no_grad():
            return -float(self.objective.distillation(program(request), self.teacher(request)))

    def change(self, before: AnswerFunction, after: AnswerFunction) -> MetricChange:
        """Raise `UsageError`: without labels there is no quality to compare."""
        raise UsageError("The loss of quality can be measured only on labeled rows: give --data.")

    def compare_on_test(
        self, dense: AnswerFunction, pruned: AnswerFunction, frequencies: IdFrequencies | None = None
    ) -> QualityComparison:
        """Return nothing: without labels there is no quality to compare."""
        return QualityComparison()

    def test(self, predict: AnswerFunction, row_filter: RowFilter | None = None) -> dict[str, float]:
        """Return nothing: without labels there is no quality to measure."""
        return {}

    def requests(self, count: int, seed: int) -> Arrays:
        """Return sampled requests."""
        return {name: tensor.numpy() for name, tensor in self._draw(count, seed).items()}

    def _draw(self, count: int, seed: int) -> dict[str, Tensor]:
        """Sample rows with finite answers of the teacher; such rows replace all others.

        Raises `ModelError` if there are none.
        """
        inputs = self.teacher.signature.inputs
        tensors = tuple(sample_request_rows(self.teacher.signature, count, seed).values())
        finite = find_finite_rows(self.teacher, tensors).nonzero().flatten()
        if not len(finite):
            raise ModelError(
                f"The model computes NaN from each of {count} random requests: give rows with "
                "--data, or look for a division by zero or a logarithm in the model."
            )
        if len(finite) < count:
            rows = finite.repeat(-(-count // len(finite)))[:count]
            tensors = tuple(t[rows] if i.shape[:1] == (BATCH,) else t for i, t in zip(inputs, tensors, strict=True))
        return dict(zip((i.name for i in inputs), tensors, strict=True))


def count_tuning_steps(rows: int, batch_size: int) -> int:
    """Return the number of batches of an epoch, without a last batch of a single row, for which a batch-norm has no variance.

    >>> count_tuning_steps(18, 9), count_tuning_steps(19, 9), count_tuning_steps(20, 9), count_tuning_steps(1, 9)
    (2, 2, 3, 1)
    """
    return max(1, math.ceil((rows - 1) / batch_size))


def take_steps(steps: int, batches: Callable[..., Iterator[Batch]], seed: int) -> Iterator[Batch]:
    """Yield the first `steps` batches of this process in the epoch of a seed."""
    return islice(batches(seed, divided=True), steps)


def run_program(program: Program, request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a program on arrays and return arrays."""
    with torch.inference_mode():
        response = program({name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in request.items()})
    # Even in inference mode an output that is a view of a parameter requires gradients.
    return {name: tensor.detach().numpy() for name, tensor in response.items()}


def read_encoded(
    path: DataFile, encoder: Encoder | SequenceEncoder, settings: RowSettings = DEFAULT_ROW_SETTINGS
) -> ClickData | SequenceData:
    """Read rows for a reference recommender with the encoder of its training, and the same split.

    The label settings override those of the training. Raises `UsageError` if a split is named, or if label settings are given for
    histories.
    """
    if settings.split.options:
        raise UsageError(
            "The checkpoint of `train` specifies the split of its rows, so that no training row is used for evaluation: leave out "
            f"{settings.split.options[0]}, or train with it."
        )
    if isinstance(encoder, SequenceEncoder):
        settings.labels.refuse_for_histories()
        return load_sequences(path, encoder.schema, encoder, settings.reading)
    given = {name: value for name, value in asdict(settings.labels).items() if value is not None}
    encoder = replace(encoder, schema=replace(encoder.schema, **given))
    return load_clicks(path, encoder.schema, encoder, settings.group, settings.reading)


def read_arrays(
    data: Path | str | Columns,
    program: Program,
    labels: tuple[str, ...],
    seed: int,
    settings: RowSettings = DEFAULT_ROW_SETTINGS,
    kinds: Mapping[str, LabelKind] | None = None,
) -> ArrayData:
    """Read rows for a third-party model, by the names of its inputs; rows with NaN are kept if the model returns numbers for them.

    `kinds` are those of labels, if known.
    """
    inputs = program.signature.inputs
    specs = [make_array_spec(i, i.ids) for i in inputs]
    return load_arrays(
        data, specs, labels, seed, settings, label_kinds=kinds, has_answer=partial(find_answered_rows, program)
    )


def find_answered_rows(program: Program, request: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return for each row of `request` whether no output of `program` is NaN, bool [N]."""
    chunk_rows = 256  # scores of all items take megabytes for each row
    rows = len(next(iter(request.values())))
    answered = np.ones(rows, dtype=bool)
    for start in range(0, rows, chunk_rows):
        chunk = slice(start, start + chunk_rows)
        for values in run_program(program, {name: array[chunk] for name, array in request.items()}).values():
            if values.dtype.kind == "f" and len(values) == len(answered[chunk]):
                answered[chunk] &= ~np.isnan(values).reshape(len(values), -1).any(axis=1)
    return answered


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return arrays as tensors, which share their memory where it is contiguous."""
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}


def _count_cuts(histories: Ragged) -> np.ndarray:
    """Return the number of positions at which each history is cut in an epoch, int [users]."""
    return np.minimum(histories.lengths, CUTS)


def _truncate_histories(histories: Ragged, length: int, rng: np.random.Generator) -> Batch:
    """Return a random prefix of each history and the item after it, 0 for the whole history.

    Whole histories are included because serving requests are whole, and the teacher can answer them.
    """
    ends = rng.integers(1, histories.lengths + 1)
    next_index = np.minimum(histories.offsets[:-1] + ends, len(histories.values) - 1)
    target = np.where(ends < histories.lengths, histories.values[next_index], 0).astype(np.int64)
    prefixes = histories.drop_last(histories.lengths - ends)
    return {HISTORY: torch.from_numpy(prefixes.pad_left(length))}, {NEXT_ITEM: torch.from_numpy(target)}


def _take_all_positions(histories: Ragged, length: int, most: int, rng: np.random.Generator) -> Batch:
    """Return the last `length` items of each history and the item after each of them, 0 at the end, for the teacher alone.

    The batch has at most `most` positions, sampled at random if there are more.
    """
    history = torch.from_numpy(histories.pad_left(length))
    places = find_positions(history > 0)
    if len(places) > most:
        places = places[np.sort(rng.choice(len(places), most, replace=False))]
    following = torch.cat([history[:, 1:], torch.zeros(len(history), 1, dtype=history.dtype)], dim=1)
    return {HISTORY: history, POSITIONS: places}, {NEXT_ITEM: following.flatten()[places]}


def _share_histories(batch: Batch) -> Batch:
    """Return the rows of this process."""
    request, labels = batch
    return {n: take_share(t) for n, t in request.items()}, {n: take_share(t) for n, t in labels.items()}


def _share_positions(batch: Batch) -> Batch:
    """Return the histories of this process and their positions, with the order of these in the whole batch."""
    if not is_divided():
        return batch
    request, labels = batch
    history, places = request[HISTORY], request[POSITIONS]
    row, position = places // history.shape[1], places % history.shape[1]
    own = (row % world_size() == rank()).nonzero().flatten()
    local = row[own] // world_size() * history.shape[1] + position[own]
    return (
        {HISTORY: take_share(history), POSITIONS: local},
        {**{name: values[own] for name, values in labels.items()}, ORDER: own},
    )


def predict_label(values: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Return the prediction of the label by an output, [N, ...], in float64.

    That is a number, or the probability of 1, [N]; of more than two classes the probability of each, [N, k].
    """
    columns = values.astype(np.float64).reshape(len(values), -1)
    if kind in ("probability", "value"):
        return columns[:, -1]
    if kind == "class probabilities":
        return columns[:, 1] if columns.shape[1] == 2 else columns
    if kind == "classes" and columns.shape[1] > 2:
        exponentials = np.exp(columns - columns.max(1, keepdims=True))
        probabilities: np.ndarray = exponentials / exponentials.sum(1, keepdims=True)
        return probabilities
    logit = columns[:, 1] - columns[:, 0] if kind == "classes" else columns[:, -1]
    return 1.0 / (1.0 + np.exp(-logit))
