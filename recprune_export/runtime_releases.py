"""Releases of ONNX Runtime: the formats that each loads, and the limits that a user sets for a file.

The tables were measured: `benchmarks/bench_releases.py` loads files of each kind in each release (docs/decisions/oldest-runtime.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.version import InvalidVersion, Version

from recprune_export.errors import UsageError

Operators = Literal["all", "onnx"]
OPERATORS: tuple[Operators, ...] = ("all", "onnx")
OLDEST = "1.17"  # the oldest release in which files are tested
DEFAULT_OPSET, OLDEST_OPSET = 20, 18
# The first release for an operator set of ONNX, of ai.onnx.ml, and for a version of the file format.
RELEASE_OF_OPSET: Mapping[int, str] = {
    20: "1.17",
    21: "1.18",
    22: "1.21",
    23: "1.23",
    24: "1.24",
    25: "1.24",
    26: "1.26",
}
RELEASE_OF_ML: Mapping[int, str] = {4: "1.17", 5: "1.18"}
RELEASE_OF_IR: Mapping[int, str] = {9: "1.17", 10: "1.18", 11: "1.23", 12: "1.24", 13: "1.24"}
# Operators of com.microsoft that are newer than OLDEST, in the form that we write.
RELEASE_OF_CONTRIB: Mapping[str, str] = {"GatherBlockQuantized": "1.23"}


@dataclass(frozen=True)
class RuntimeTarget:
    """The ONNX operator set of a file, the oldest release that must load it, and its operators.

    `operators` is "all" (operators of com.microsoft where they are faster) or "onnx" (only standard operators).

    Raises `UsageError` for an operator set or a release that is not supported, and where the release is too old for the set.

    >>> RuntimeTarget(release="1.16")
    Traceback (most recent call last):
    ...
    recprune_export.errors.UsageError: --runtime-min 1.16: files are tested with ONNX Runtime 1.17 and later; give one of these releases.
    """

    opset: int = DEFAULT_OPSET
    release: str | None = None
    operators: Operators = "all"

    def __post_init__(self) -> None:
        if self.operators not in OPERATORS:
            raise UsageError(f"--operators must be one of {', '.join(OPERATORS)}, got '{self.operators}'.")
        newest = max(RELEASE_OF_OPSET)
        if not OLDEST_OPSET <= self.opset <= newest:
            raise UsageError(f"--opset must be between {OLDEST_OPSET} and {newest}, got {self.opset}.")
        if self.release is None:
            return
        try:
            release = Version(self.release)
        except InvalidVersion:
            raise UsageError(
                f"--runtime-min '{self.release}' is not a release of ONNX Runtime: write for example 1.18."
            ) from None
        if release < Version(OLDEST):
            raise UsageError(
                f"--runtime-min {self.release}: files are tested with ONNX Runtime {OLDEST} and later; give one of these releases."
            )
        needed = RELEASE_OF_OPSET.get(self.opset, OLDEST)
        if release < Version(needed):
            raise UsageError(
                f"--opset {self.opset} requires ONNX Runtime {needed}, but --runtime-min is {self.release}."
            )

    def allows(self, operator: str) -> bool:
        """Return whether an operator of com.microsoft may be used.

        >>> RuntimeTarget(release="1.20").allows("GatherBlockQuantized"), RuntimeTarget(operators="onnx").allows("QGemm")
        (False, False)
        """
        needed = RELEASE_OF_CONTRIB.get(operator, OLDEST)
        return self.operators == "all" and (self.release is None or Version(self.release) >= Version(needed))


ANY_RUNTIME = RuntimeTarget()
