"""`OperatingPoint`: the amount of compression of one trial: a sparsity, a number of bytes, or int8 without pruning."""

from dataclasses import dataclass, field
from typing import Literal

from recprune_export.codec import OMIT_DEFAULT, DictMixin
from recprune_export.settings import Settings

PointKind = Literal["sparsity", "bytes", "dense int8"]


@dataclass(frozen=True, order=True)
class OperatingPoint(DictMixin):
    """One point on the curve of quality over cost.

    `value` is the sparsity, or the fraction of the bytes of the dense fp32 file that the file may have. The kind "dense int8" is the
    dense model without pruning, with tables and layers in int8; its value is 0. `microseconds` limits the predicted time of a plan with a
    byte limit (`RequestTime`); 0 means no limit.
    """

    kind: PointKind
    value: float
    microseconds: float = field(default=0.0, metadata=OMIT_DEFAULT)

    def __post_init__(self) -> None:
        object.__setattr__(self, "microseconds", round(self.microseconds, 3))
        object.__setattr__(self, "value", round(self.value, 4))  # so that equal points of two searches are one trial

    @classmethod
    def at_density(cls, kind: Literal["sparsity", "bytes"], density: float) -> "OperatingPoint":
        """Return the point that keeps the fraction `density` of the parameters, or of the bytes.

        >>> [OperatingPoint.at_density(kind, 0.25).label for kind in ("sparsity", "bytes")]
        ['sparsity 0.75', '25 % of the bytes']
        """
        return cls(kind, 1.0 - density if kind == "sparsity" else density)

    @property
    def density(self) -> float:
        """The remaining fraction of the parameters or of the bytes."""
        return {"sparsity": 1.0 - self.value, "bytes": self.value, "dense int8": 1.0}[self.kind]

    @property
    def label(self) -> str:
        """The point in a few characters.

        >>> [OperatingPoint(*point).label for point in (("sparsity", 0.9), ("bytes", 0.07), ("dense int8", 0.0))]
        ['sparsity 0.9', '7 % of the bytes', 'dense int8']
        >>> OperatingPoint("bytes", 0.07, 85.0).label
        '7 % of the bytes, predicted time of at most 85 µs'
        """
        if self.kind == "bytes":
            time = f", predicted time of at most {self.microseconds:.4g} µs" if self.microseconds else ""
            return f"{100.0 * self.value:.4g} % of the bytes{time}"
        return self.kind if self.kind == "dense int8" else f"sparsity {self.value:.4g}"

    @property
    def options(self) -> dict[str, str]:
        """The options of the command line for this point.

        >>> OperatingPoint("bytes", 0.07).options
        {'--max-bytes': '7%'}
        """
        if self.kind == "bytes":
            return {"--max-bytes": f"{100.0 * self.value:.4g}%"}
        if self.kind == "dense int8":
            return {"--sparsity": "0", "--quantize": "int8"}
        return {"--sparsity": f"{self.value:.4g}"}

    def apply(self, settings: Settings, dense_bytes: int) -> Settings:
        """Return the settings of a trial at this point; `dense_bytes` are those of the dense fp32 file.

        Options that only another kind of point has are at their defaults.
        """
        if self.kind == "sparsity":
            unset = dict.fromkeys(("embedding_sparsity", "hidden_sparsity", "max_bytes", "max_microseconds"))
            return settings.with_options(**unset, sparsity=self.value)
        values: dict[str, float | None] = dict.fromkeys(
            ("embedding_sparsity", "hidden_sparsity", "structured_fraction", "prune_rows")
        )
        values["max_microseconds"] = self.microseconds or None
        if self.kind == "dense int8":
            return settings.with_options(**values, max_bytes=None, sparsity=0.0, prune_fields=0, quantize="int8")
        del values["prune_rows"]
        limit = f"{max(1, int(self.value * dense_bytes))}B"  # 0 means no limit; no plan takes 1 µs
        return settings.with_options(**values, max_bytes=limit, pruning_stages=1, quantize="none")


def make_dense_int8_point() -> OperatingPoint:
    """Return the point of the dense model in int8."""
    return OperatingPoint("dense int8", 0.0)
