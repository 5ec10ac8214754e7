"""`Settings`: the options of the main job in nested parts, one for each stage, checked before any work begins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from recprune_export.byte_limit import ByteLimit, parse_byte_limit
from recprune_export.environment import count_cores
from recprune_export.errors import UsageError
from recprune_export.latency_limit import LatencyLimit, parse_latency_limits
from recprune_export.license import canonicalize_license
from recprune_export.runtime_releases import DEFAULT_OPSET, Operators, RuntimeTarget

QUANTIZE = ("none", "fp16", "int8", "int4")
BAD_IDS = ("unknown", "error")
MINIMIZE = ("bytes", "latency")
MOST_SAMPLE_ROWS = 32  # of a request in the folder samples/


@dataclass(frozen=True)
class PruningSettings:
    """Options that decide which fields, rows and channels are removed.

    `sparsity`, `embedding_sparsity` and `hidden_sparsity` are fractions of dense parameters in [0, 1).
    `structured_fraction` is the fraction of it, in log space, that removed channels contribute; by default it is found by trial
    (`pipeline/structured_fraction.py`). Zeros contribute the remainder. `prune_fields` is the number of whole fields that are removed
    first; `prune_rows` is the fraction of all rows of tables that shared rows then replace, or "auto". `pruning_stages` is the number of
    stages, each of which prunes and then fine-tunes. `refit` fits the remaining layers by least squares after each. With `infer_rules`,
    operators without a channel rule get one by trial (`channels/rule_trials.py`). With `max_bytes`, a size or a percentage of the dense
    file, widths and bits are chosen together within it, and `sparsity` is not used. `max_microseconds`, which searches set, limits the
    predicted time of its lookups and matrix products (`RequestTime`).
    """

    sparsity: float = 0.7
    embedding_sparsity: float | None = None
    hidden_sparsity: float | None = None
    prune_fields: int = 0
    prune_rows: float | Literal["auto"] | None = None
    structured_fraction: float | None = None
    score: str = "output-error"
    width_multiple: int = 16
    refit: bool = True
    pruning_stages: int = 1
    infer_rules: bool = False
    max_bytes: str | None = None
    max_microseconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("sparsity", "embedding_sparsity", "hidden_sparsity"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} must lie in [0, 1), got {value:g}; 0.7 removes 70 % of the parameters.")
        if self.prune_fields < 0:
            raise UsageError(f"--prune-fields must be 0 or more, got {self.prune_fields}.")
        if isinstance(self.prune_rows, int | float) and not 0.0 < self.prune_rows < 1.0:
            raise UsageError(f"--prune-rows must lie in (0, 1), got {self.prune_rows:g}; 0.5 removes half of all rows.")
        if self.structured_fraction is not None and not 0.0 <= self.structured_fraction <= 1.0:
            raise UsageError(f"--structured-fraction must lie in [0, 1], got {self.structured_fraction:g}.")
        if self.width_multiple < 1:
            raise UsageError(f"--width-multiple must be 1 or more, got {self.width_multiple}.")
        if self.pruning_stages < 1:
            raise UsageError(f"--pruning-stages must be 1 or more, got {self.pruning_stages}.")
        if self.max_bytes is not None:
            self._check_byte_limit(self.max_bytes)
        if self.max_microseconds is not None and (self.max_bytes is None or not self.max_microseconds > 0.0):
            raise UsageError(
                "max_microseconds must be positive and requires max_bytes: it limits the time of plans within --max-bytes."
            )

    def _check_byte_limit(self, text: str) -> None:
        parse_byte_limit(text)
        others = {
            "--embedding-sparsity": self.embedding_sparsity,
            "--hidden-sparsity": self.hidden_sparsity,
            "--structured-fraction": self.structured_fraction,
        }
        for option, value in others.items():
            if value is not None:
                raise UsageError(f"--max-bytes determines what is removed: leave out {option} or --max-bytes.")
        if self.pruning_stages > 1:
            raise UsageError("--max-bytes prunes in one stage: leave out --pruning-stages.")
        if self.score != PruningSettings.score:
            raise UsageError(
                f"--max-bytes requires a score whose losses are comparable with those of bits: leave out --score {self.score}."
            )

    @property
    def byte_limit(self) -> ByteLimit | None:
        """The limit of the bytes of the file; None if the sparsity determines the size."""
        return None if self.max_bytes is None else parse_byte_limit(self.max_bytes)

    @property
    def table_sparsity(self) -> float:
        """The sparsity of the embedding tables."""
        return self.sparsity if self.embedding_sparsity is None else self.embedding_sparsity

    @property
    def rest_sparsity(self) -> float:
        """The sparsity of all parameters outside tables."""
        return self.sparsity if self.hidden_sparsity is None else self.hidden_sparsity

    def at_stage(self, stage: int) -> Self:
        """Return the settings of `stage`, counted from 1 to `pruning_stages`: each keeps the same fraction of its input.

        Fields and rows are removed only in the first stage.

        >>> [round(PruningSettings(0.91, pruning_stages=2).at_stage(stage).table_sparsity, 6) for stage in (1, 2)]
        [0.7, 0.91]
        """
        if self.max_bytes is not None:
            return self
        exponent = stage / self.pruning_stages
        tables, rest = (1.0 - (1.0 - s) ** exponent for s in (self.table_sparsity, self.rest_sparsity))
        first_only: dict[str, Any] = {} if stage == 1 else {"prune_fields": 0, "prune_rows": None}
        return replace(self, embedding_sparsity=tables, hidden_sparsity=rest, **first_only)

    def at_sparsity(self, sparsity: float) -> Self:
        """Return the settings with the same sparsity for tables and other layers."""
        return replace(self, sparsity=sparsity, embedding_sparsity=None, hidden_sparsity=None)


@dataclass(frozen=True)
class LabelSettings:
    """How labels are read: `weight` is the column with the weights of rows, `missing_label` the value that marks a missing label."""

    weight: str | None = None
    missing_label: str | None = None

    def refuse_for_histories(self) -> None:
        """Raise `UsageError` if an option is given for histories, whose label is the next item."""
        for name, value in asdict(self).items():
            if value is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} applies to rows with labels, but the label of a history is its next item."
                )


DEFAULT_LABEL_SETTINGS = LabelSettings()


@dataclass(frozen=True)
class EvaluationSettings:
    """The metrics of quality, by name; the first decides. By default, the usual metrics for the kinds of the labels.

    `group` is the column, or the input of the model, that defines the groups of GAUC.
    """

    metrics: tuple[str, ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        names = (self.metrics,) if isinstance(self.metrics, str) else self.metrics
        object.__setattr__(self, "metrics", tuple(names))


DEFAULT_EVALUATION_SETTINGS = EvaluationSettings()


@dataclass(frozen=True)
class SplitSettings:
    """The column by which rows are split into train, valid and test; without one they are split at random.

    `split` contains the name of a split in each row; `split_by_time` a number or time, whose last fractions are valid and test;
    `split_by_user` a user, all of whose rows are in one split.
    """

    split: str | None = None
    split_by_time: str | None = None
    split_by_user: str | None = None

    def __post_init__(self) -> None:
        if len(self.options) > 1:
            raise UsageError(
                f"{' and '.join(self.options)} cannot be combined, since each splits all rows: give one of them."
            )

    @property
    def options(self) -> tuple[str, ...]:
        """The options that name a column."""
        return tuple(f"--{name.replace('_', '-')}" for name, column in asdict(self).items() if column is not None)


@dataclass(frozen=True)
class DataSettings:
    """How rows are read: separator and encoding of a CSV file, None if they are detected.

    `allow_unknown` accepts rows even if nearly all of their ids are unknown to the model. `stream` keeps encoded rows in temporary files
    instead of memory; None does so if there are many. `readers` is the number of processes that read these files; with 0, a thread of
    this process does.
    """

    separator: str | None = None
    encoding: str | None = None
    allow_unknown: bool = False
    stream: bool | None = None
    readers: int = 0


DEFAULT_DATA_SETTINGS = DataSettings()


@dataclass(frozen=True)
class RowSettings:
    """How rows are read: their labels, their metrics, their split, and the format of the file."""

    labels: LabelSettings = DEFAULT_LABEL_SETTINGS
    split: SplitSettings = SplitSettings()
    group: str | None = None
    reading: DataSettings = DataSettings()


DEFAULT_ROW_SETTINGS = RowSettings()


@dataclass(frozen=True)
class FineTuningSettings:
    """Options of fine-tuning; None leaves a choice to the kind of model.

    `regularize` is the strength of a group lasso under which the model is trained before channels are removed; `sparsity_schedule`
    is "gradual" or "one-shot".
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    regularize: float = 0.0
    sparsity_schedule: str = "gradual"

    def __post_init__(self) -> None:
        if not 0.0 <= self.regularize < 1e3:
            raise UsageError(f"--regularize must be 0 or more, got {self.regularize:g}; 1 is a typical strength.")
        if self.regularize and self.epochs == 0:
            raise UsageError(
                "--regularize trains for the same number of epochs as fine-tuning: give --epochs of 1 or more."
            )
        if self.learning_rate is not None and not 0.0 < self.learning_rate < 1e3:
            raise UsageError(f"--learning-rate must be positive, got {self.learning_rate:g}.")


@dataclass(frozen=True)
class ExportSettings:
    """Options of the bundle and its ONNX file.

    `outputs` are the names of the outputs that are served, all by default; parts that only the others need are removed. Inputs named
    in `shared_inputs` are the same for all candidates of a request, and have one row in the ONNX file.
    `keep_dense` adds the dense baseline, `triton` a model repository for Triton; a server may form or accept batches of up to `max_batch`
    rows. `license` is an SPDX expression. `bad_ids` is the treatment of an id outside its table in the ONNX file: "unknown", the id of
    unknown values, or "error", which refuses the whole request. With `padded` the file takes each input whose rows have different numbers
    of elements as a matrix with this number of columns, instead of the elements of all rows with their lengths or offsets. The file is in
    ONNX operator set `opset`, and ONNX Runtime loads it from release `runtime_min` on. `operators` is "all" (those of com.microsoft where
    they are faster) or "onnx" (only standard operators). `raw_inputs` adds a file that takes raw values; `vocabularies`, each INPUT=FILE,
    are for a model that `train` did not make. With `top_k` the bundle has `model.top_k.onnx`, which returns this number of best items;
    `item_ids` is a file with their ids, in the order of the columns of scores, and `exclude_seen` leaves out the items of the history.
    The bundle keeps `calibration_rows` encoded training rows, without labels, from which `reapply` takes its statistics.
    """

    outputs: tuple[str, ...] = ()
    shared_inputs: tuple[str, ...] = ()
    keep_dense: bool = True
    triton: bool = True
    max_batch: int = 4096
    license: str | None = None
    bad_ids: Literal["unknown", "error"] = "unknown"
    padded: int | None = None
    top_k: int | None = None
    item_ids: str | None = None
    exclude_seen: bool = False
    raw_inputs: bool = False
    vocabularies: tuple[str, ...] = ()
    opset: int = DEFAULT_OPSET
    runtime_min: str | None = None
    operators: Operators = "all"
    calibration_rows: int = 0

    @property
    def runtime(self) -> RuntimeTarget:
        """The limits of the ONNX file."""
        return RuntimeTarget(self.opset, self.runtime_min, self.operators)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs))
        if self.padded is not None and self.padded < 1:
            raise UsageError(
                f"--padded must be the number of elements in the longest row, 1 or more, got {self.padded}."
            )
        if self.max_batch < MOST_SAMPLE_ROWS:
            raise UsageError(
                f"--max-batch must be {MOST_SAMPLE_ROWS} or more, the largest number of rows of a golden request; got "
                f"{self.max_batch}."
            )
        if self.calibration_rows < 0:
            raise UsageError(f"--calibration-rows must be 0 or more, got {self.calibration_rows}.")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"--top-k must be 1 or more, got {self.top_k}.")
        if self.top_k is None and (self.item_ids is not None or self.exclude_seen):
            option = "--item-ids" if self.item_ids is not None else "--exclude-seen"
            raise UsageError(f"{option} is used only with --top-k: give --top-k as well.")
        _ = self.runtime  # which refuses invalid values
        if self.bad_ids not in BAD_IDS:
            raise UsageError(f"--bad-ids must be one of {', '.join(BAD_IDS)}, got '{self.bad_ids}'.")
        if self.license is not None:
            object.__setattr__(self, "license", canonicalize_license(self.license))


@dataclass(frozen=True)
class QuantizationSettings:
    """The number of bits in which weights are stored, and the allowed loss of the validation metric.

    `quantize` is "none", "fp16" (tables), "int8" (tables and linear layers) or "int4" (tables; layers in int8).
    """

    quantize: Literal["none", "fp16", "int8", "int4"] = "none"
    max_quantize_drop: float = 0.001

    def __post_init__(self) -> None:
        if self.quantize not in QUANTIZE:
            raise UsageError(f"--quantize must be one of {', '.join(QUANTIZE)}, got '{self.quantize}'.")
        if not 0.0 <= self.max_quantize_drop < 1.0:
            raise UsageError(
                f"--max-quantize-drop must lie in [0, 1), got {self.max_quantize_drop:g}; 0.001 allows a drop of 0.001 of the metric."
            )


@dataclass(frozen=True)
class LatencySettings:
    """The batch sizes at which latency is measured and for which the ONNX file is optimized, and the number of threads.

    `quick` measures only one of the batch sizes, and leaves out cold caches, cold starts and the report page.
    """

    latency_batch_sizes: tuple[int, ...] = (1, 32, 256, 1024)
    threads: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.latency_batch_sizes or min(self.latency_batch_sizes) < 1:
            raise UsageError(
                "--latency-batch-sizes must contain at least one batch size of 1 or more, for example 1,256."
            )


@dataclass(frozen=True)
class SearchSettings:
    """The quality or the speed that a search for the operating point must reach; without any the point is given.

    `max_drop` is the allowed drop of the metric, and `minimize` the quantity to minimize within it: "bytes" of the file, or "latency",
    for which the largest sparsity is searched. `target_speedup` is the ratio to the dense model, `target_latency` lists times on this
    machine, such as "0.5ms@256". `target_batch_sizes` are the batch sizes whose mean speed-up must reach the target, by default all
    measured ones. `undecided` states whether trials with an inconclusive verdict pass or fail.
    """

    max_drop: float | None = None
    target_speedup: float | None = None
    target_batch_sizes: tuple[int, ...] | None = None
    undecided: Literal["pass", "fail"] | None = None
    target_latency: str | None = None
    minimize: Literal["bytes", "latency"] = "bytes"

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0.0 < self.max_drop < 1.0:
            raise UsageError(
                f"--max-drop must lie in (0, 1), got {self.max_drop:g}; 0.001 allows a drop of 0.001 of the metric."
            )
        if self.target_speedup is not None and not self.target_speedup > 1.0:
            raise UsageError(f"--target-speedup must be above 1, got {self.target_speedup:g}.")
        if self.target_batch_sizes is not None and self.target_speedup is None:
            raise UsageError("--target-batch-sizes is used only with --target-speedup: give --target-speedup as well.")
        if self.undecided not in (None, "pass", "fail"):
            raise UsageError(f"--undecided must be pass or fail, got '{self.undecided}'.")
        if self.undecided is not None and self.max_drop is None:
            raise UsageError(
                "--undecided is used only with --max-drop, for inconclusive trials: give --max-drop as well."
            )
        if self.minimize not in MINIMIZE:
            raise UsageError(f"--minimize must be one of {', '.join(MINIMIZE)}, got '{self.minimize}'.")
        if self.target_latency is not None:
            parse_latency_limits(self.target_latency)

    @property
    def latency_limits(self) -> tuple[LatencyLimit, ...]:
        """The limits of the time of a request; empty if speed is not limited."""
        return () if self.target_latency is None else parse_latency_limits(self.target_latency)

    @property
    def has_speed_target(self) -> bool:
        """Whether the artifact must reach a speed."""
        return self.target_speedup is not None or self.target_latency is not None


@dataclass(frozen=True, init=False)
class Settings:
    """Options of `compress`, in one part for each stage; each option is a keyword.

    Raises `UsageError` if an option is out of range, `TypeError` for an unknown option.

    >>> settings = Settings(sparsity=0.9, epochs=2, seed=1)
    >>> settings.pruning.sparsity, settings.finetuning.epochs, settings.seed
    (0.9, 2, 1)
    """

    pruning: PruningSettings
    labels: LabelSettings
    evaluation: EvaluationSettings
    split: SplitSettings
    finetuning: FineTuningSettings
    export: ExportSettings
    quantization: QuantizationSettings
    latency: LatencySettings
    search: SearchSettings
    reading: DataSettings
    seed: int

    def __init__(self, sparsity: float = PruningSettings.sparsity, *, seed: int = 0, **options: Any) -> None:
        options["sparsity"] = sparsity
        for name, section in _SECTIONS.items():
            values = {field.name: options.pop(field.name) for field in fields(section) if field.name in options}
            object.__setattr__(self, name, section(**values))
        object.__setattr__(self, "seed", seed)
        if options:
            raise TypeError(f"Settings has no option '{next(iter(options))}'")
        if self.pruning.max_bytes is not None and self.quantization.quantize != "none":
            raise UsageError("--max-bytes determines the bits of each weight: leave out --quantize.")

    @property
    def rows(self) -> RowSettings:
        """The options by which rows are read."""
        return RowSettings(self.labels, self.split, self.evaluation.group, self.reading)

    def with_options(self, **options: Any) -> Self:
        """Return a copy with other values of some options.

        >>> Settings(0.9, epochs=2).with_options(epochs=3).finetuning.epochs
        3
        """
        return type(self)(**{**self._options(), **options})

    def to_dict(self) -> dict[str, Any]:
        """Return all options by name, as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._options().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`, or the settings of a manifest, which contain further entries and may have former names.

        >>> Settings.from_dict({**Settings(sparsity=0.9).to_dict(), "command": []}) == Settings(sparsity=0.9)
        True
        """
        values = rename_former_options(values)
        if "minimize" not in values and values.get("max_drop") is not None:
            values["minimize"] = "latency"  # in earlier releases, --max-drop always searched the sparsity
        options: dict[str, Any] = {name: values[name] for name in Settings()._options() if name in values}
        lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        return cls(**{**options, **lists})

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for name in _SECTIONS:
            options.update(asdict(getattr(self, name)))
        return {**options, "seed": self.seed}


_SECTIONS: dict[str, Any] = {
    "pruning": PruningSettings,
    "labels": LabelSettings,
    "evaluation": EvaluationSettings,
    "split": SplitSettings,
    "finetuning": FineTuningSettings,
    "export": ExportSettings,
    "quantization": QuantizationSettings,
    "latency": LatencySettings,
    "search": SearchSettings,
    "reading": DataSettings,
}


# Names of options in bundles of earlier releases; the score `auto` was the default.
_FORMER_NAMES = {
    "batches": "latency_batch_sizes",
    "licence": "license",
    "regularise": "regularize",
    "round_to": "width_multiple",
    "steps": "pruning_stages",
    "structured_share": "structured_fraction",
    "zeros": "sparsity_schedule",
}


def rename_former_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` with former names and values replaced.

    >>> rename_former_options({"batches": (1,), "score": "auto"})
    {'latency_batch_sizes': (1,), 'score': 'output-error'}
    """
    options = {_FORMER_NAMES.get(name, name): value for name, value in options.items()}
    return {**options, "score": PruningSettings.score} if options.get("score") == "auto" else options


def parse_row_fraction(text: str) -> float | Literal["auto"]:
    """Parse a fraction of rows, or `auto`.

    >>> parse_row_fraction("0.5"), parse_row_fraction("auto")
    (0.5, 'auto')
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"--prune-rows '{text}' is not a number; write for example 0.5, or auto.") from error


def parse_batch_sizes(text: str, option: str = "--latency-batch-sizes") -> tuple[int, ...]:
    """Parse a list of batch sizes that `option` gives.

    >>> parse_batch_sizes("1, 256")
    (1, 256)
    """
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} '{text}' is not a list of numbers; write for example 1,256.") from error
    if min(sizes) < 1:
        raise UsageError(f"{option} must contain at least one batch size of 1 or more, for example 1,256.")
    return tuple(dict.fromkeys(sizes))


def parse_thread_counts(text: str) -> tuple[int, ...]:
    """Parse a list of thread counts, in which `all` means every core of this process.

    >>> parse_thread_counts("1,2,1")
    (1, 2)
    """
    try:
        counts = tuple(count_cores() if word.strip() == "all" else int(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--thread-counts '{text}' is not a list of numbers; write for example 1,all.") from error
    if min(counts) < 1:
        raise UsageError("--thread-counts must contain thread counts of 1 or more, for example 1,all.")
    return tuple(dict.fromkeys(counts))
