"""`BundlePair`: two bundles that can be compared, and the figures that are not comparable."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.gate.compatibility import find_breaking_changes
from recprune_export.program.signature import Signature
from recprune_export.validation.latency.closed_loop import WALL

SIDES = ("A", "B")
_MACHINE = (("cpu", "processor"), ("cores", "cores"), ("system", "system"))


@dataclass(frozen=True)
class BundlePair:
    """The manifests of two bundles, A and B, of one model or of models with the same inputs and outputs."""

    a: Manifest
    b: Manifest

    @property
    def have_same_dense_model(self) -> bool:
        """Whether both were made from the same model file; False if that is not recorded."""
        return _is_same(*(_get_sha256(manifest.settings.get("model_file")) for manifest in (self.a, self.b)))

    @property
    def have_same_rows(self) -> bool:
        """Whether metrics of both were measured on the same test rows; False if that is not recorded."""
        files = (_get_sha256((manifest.provenance or {}).get("data")) for manifest in (self.a, self.b))
        return _is_same(*files) and self.a.settings.get("rows") == self.b.settings.get("rows")

    @property
    def signature_changes(self) -> tuple[str, ...]:
        """Sentences on inputs and outputs that differ, except ranges of ids; empty if both were made from the same file."""
        if self.have_same_dense_model:
            return ()
        new, base = (Signature.from_dict(manifest.signature) for manifest in (self.b, self.a))
        return find_breaking_changes(new, base, ranges=False)

    @cached_property
    def latency_differences(self) -> tuple[str, ...]:
        """Differences between the two measurements of latency that make their figures incomparable; empty if there are none."""
        one, other = self.a.latency, self.b.latency
        pairs = [(word, self.a.environment.get(key), self.b.environment.get(key)) for key, word in _MACHINE]
        pairs.append(("ONNX Runtime", _get_version(self.a, "onnxruntime"), _get_version(self.b, "onnxruntime")))
        pairs.append(("threads", one.get("threads"), other.get("threads")))
        pairs.append(("clock of the ratios", one.get("clock", WALL), other.get("clock", WALL)))
        return tuple(f"{word} {_say(a)} and {_say(b)}" for word, a, b in pairs if a != b)


def _is_same(one: str | None, other: str | None) -> bool:
    return one is not None and one == other


def _get_sha256(file: Mapping[str, Any] | None) -> str | None:
    return (file or {}).get("sha256")


def _get_version(manifest: Manifest, package: str) -> str | None:
    return manifest.environment.get("packages", {}).get(package)


def _say(value: object) -> str:
    return "not recorded" if value is None else str(value)
