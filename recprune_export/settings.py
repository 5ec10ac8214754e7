"""`Settings`: what the user asks of the main job, checked before any work begins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from recprune_export.environment import cores
from recprune_export.errors import UsageError
from recprune_export.license import canonicalize_license

QUANTIZE = ("none", "fp16", "int8", "int4")


@dataclass(frozen=True)
class Settings:
    """Options of `compress`; None leaves a choice to the product.

    `sparsity`, `embedding_sparsity` and `hidden_sparsity` are fractions of dense parameters in [0, 1). Latency is
    measured for each size in `batches`, with `threads` threads. Inputs named in `shared_inputs` are the same for all
    candidates of a request, and have one row in the ONNX file. With `max_drop` or `target_speedup` the sparsity is
    searched, beginning at `sparsity`. `structured_share` is the part of it, in log space, that removed channels take;
    by default it is tried (`removal_share`); zeros take the remainder. `prune_fields` is how many whole fields go, before
    anything else; `prune_rows` the share of all rows of tables that is given up for shared ones, or "auto", after that.
    `steps` is the number of stages, each of which prunes a part and tunes what is left. `quantize` says in how
    few bits weights may be stored: fp16 tables; int8 tables and linear layers; or int4 tables and int8 layers. It may take
    `max_quantize_drop` of the validation metric. `licence` is an SPDX expression; `triton` says whether the bundle holds a
    model repository for Triton.
    """

    sparsity: float = 0.7
    embedding_sparsity: float | None = None
    hidden_sparsity: float | None = None
    prune_fields: int = 0
    structured_share: float | None = None
    score: str = "auto"
    round_to: int = 16
    refit: bool = True
    regularise: float = 0.0
    zeros: str = "gradual"
    epochs: int | None = None
    learning_rate: float | None = None
    steps: int = 1
    batch_size: int | None = None
    seed: int = 0
    threads: int = 1
    batches: tuple[int, ...] = (1, 32, 256, 1024)
    shared_inputs: tuple[str, ...] = ()
    keep_dense: bool = True
    max_drop: float | None = None
    target_speedup: float | None = None
    prune_rows: float | Literal["auto"] | None = None
    quantize: Literal["none", "fp16", "int8", "int4"] = "none"
    max_quantize_drop: float = 0.001
    licence: str | None = None
    triton: bool = True

    def __post_init__(self) -> None:
        for name in ("sparsity", "embedding_sparsity", "hidden_sparsity"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} must lie in [0, 1), got {value:g}; 0.7 removes 70 % of the parameters.")
        if self.prune_fields < 0:
            raise UsageError(f"--prune-fields must be 0 or more, got {self.prune_fields}.")
        if self.round_to < 1:
            raise UsageError(f"--round-to must be 1 or more, got {self.round_to}.")
        if not 0.0 <= self.regularise < 1e3:
            raise UsageError(f"--regularise must be 0 or more, got {self.regularise:g}; 1 is a usual strength.")
        if self.regularise and self.epochs == 0:
            raise UsageError("--regularise trains for as many epochs as the tuning has: give --epochs of 1 or more.")
        if self.structured_share is not None and not 0.0 <= self.structured_share <= 1.0:
            raise UsageError(f"--structured-share must lie in [0, 1], got {self.structured_share:g}.")
        if self.learning_rate is not None and not 0.0 < self.learning_rate < 1e3:
            raise UsageError(f"--learning-rate must be positive, got {self.learning_rate:g}.")
        if self.max_drop is not None and self.target_speedup is not None:
            raise UsageError("--max-drop and --target-speedup each look for a sparsity: give one of them.")
        if self.max_drop is not None and not 0.0 < self.max_drop < 1.0:
            raise UsageError(f"--max-drop must lie in (0, 1), got {self.max_drop:g}; 0.001 allows .001 of the metric.")
        if self.target_speedup is not None and not self.target_speedup > 1.0:
            raise UsageError(f"--target-speedup must be above 1, got {self.target_speedup:g}.")
        if isinstance(self.prune_rows, int | float) and not 0.0 < self.prune_rows < 1.0:
            raise UsageError(
                f"--prune-rows must lie in (0, 1), got {self.prune_rows:g}; 0.5 gives up half of all rows."
            )
        if self.quantize not in QUANTIZE:
            raise UsageError(f"--quantize must be one of {', '.join(QUANTIZE)}, got '{self.quantize}'.")
        if not 0.0 <= self.max_quantize_drop < 1.0:
            raise UsageError(
                f"--max-quantize-drop must lie in [0, 1), got {self.max_quantize_drop:g}; 0.001 allows .001 of the metric."
            )
        if self.steps < 1:
            raise UsageError(f"--steps must be 1 or more, got {self.steps}.")
        if not self.batches or min(self.batches) < 1:
            raise UsageError("--batches must name at least one batch size of 1 or more, for example 1,256.")

        if self.licence is not None:
            object.__setattr__(self, "licence", canonicalize_license(self.licence))

    @property
    def table_sparsity(self) -> float:
        """The sparsity asked of the embedding tables."""
        return self.sparsity if self.embedding_sparsity is None else self.embedding_sparsity

    @property
    def rest_sparsity(self) -> float:
        """The sparsity asked of everything but the tables."""
        return self.sparsity if self.hidden_sparsity is None else self.hidden_sparsity

    def at_stage(self, stage: int) -> Self:
        """Return the settings by which `stage`, counted from 1 to `steps`, prunes: each keeps the same share of what the one before left.

        >>> [round(Settings(0.91, steps=2).at_stage(stage).table_sparsity, 6) for stage in (1, 2)]
        [0.7, 0.91]
        """
        exponent = stage / self.steps
        tables, rest = (1.0 - (1.0 - s) ** exponent for s in (self.table_sparsity, self.rest_sparsity))
        first: dict[str, Any] = {} if stage == 1 else {"prune_fields": 0, "prune_rows": None}
        return replace(self, embedding_sparsity=tables, hidden_sparsity=rest, **first)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "batches": list(self.batches), "shared_inputs": list(self.shared_inputs)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, or the settings of a manifest, which hold more.

        >>> Settings.from_dict({**Settings(sparsity=0.9).to_dict(), "command": []}) == Settings(sparsity=0.9)
        True
        """
        given: dict[str, Any] = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**given | lists)


def row_share(text: str) -> float | Literal["auto"]:
    """Read a share of rows.

    >>> row_share("0.5"), row_share("auto")
    (0.5, 'auto')
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"--prune-rows '{text}' is no number; write for example 0.5, or auto.") from error


def batch_sizes(text: str) -> tuple[int, ...]:
    """Read a list of batch sizes.

    >>> batch_sizes("1, 256")
    (1, 256)
    """
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--batches '{text}' is no list of numbers; write for example 1,256.") from error
    if min(sizes) < 1:
        raise UsageError("--batches must name at least one batch size of 1 or more, for example 1,256.")
    return tuple(dict.fromkeys(sizes))


def thread_counts(text: str) -> tuple[int, ...]:
    """Read a list of thread counts, in which `all` stands for every core of this process.

    >>> thread_counts("1,2,1")
    (1, 2)
    """
    try:
        counts = tuple(cores() if part.strip() == "all" else int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--threads '{text}' is no list of numbers; write for example 1,all.") from error
    if min(counts) < 1:
        raise UsageError("--threads must name thread counts of 1 or more, for example 1,all.")
    return tuple(dict.fromkeys(counts))
