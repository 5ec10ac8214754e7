"""Requirements of an ONNX file: the oldest release of ONNX Runtime, the version of the format, and operator sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from packaging.version import Version

from recprune_export.codec import DictMixin
from recprune_export.errors import ExportError
from recprune_export.onnx.inner_graphs import iterate_graphs
from recprune_export.runtime_releases import (
    OLDEST,
    RELEASE_OF_CONTRIB,
    RELEASE_OF_IR,
    RELEASE_OF_ML,
    RELEASE_OF_OPSET,
    RuntimeTarget,
)

STANDARD, ML, CONTRIB = "", "ai.onnx.ml", "com.microsoft"


@dataclass(frozen=True)
class RuntimeRequirements(DictMixin):
    """The oldest release of ONNX Runtime that loads a file, its format version, and its operator sets by domain.

    `reason` is the reason for requiring this release; None if it is not later than the oldest tested release.
    """

    onnxruntime: str
    ir_version: int
    opsets: Mapping[str, int]
    reason: str | None = None

    def describe(self) -> str:
        """Return the requirement as the end of a sentence.

        >>> RuntimeRequirements("1.17", 9, {"ai.onnx": 20}).describe()
        'needs ONNX Runtime 1.17 or later: ONNX format 9, operators of ai.onnx 20'
        """
        sets = ", ".join(f"{domain} {version}" for domain, version in self.opsets.items())
        why = "" if self.reason is None else f" (for {self.reason})"
        return (
            f"needs ONNX Runtime {self.onnxruntime} or later{why}: ONNX format {self.ir_version}, operators of {sets}"
        )


def read_requirements(model: onnx.ModelProto) -> RuntimeRequirements:
    """Return the requirements of a file. O(nodes); weights are not read."""
    nodes = (node for graph in iterate_graphs(model.graph) for node in graph.node)
    used = {(node.domain if node.domain != "ai.onnx" else STANDARD, node.op_type) for node in nodes}
    domains = {domain for domain, _ in used}
    opsets = {of.domain or "ai.onnx": of.version for of in model.opset_import if of.domain in domains or not of.domain}
    needs = [
        (RELEASE_OF_IR.get(model.ir_version, OLDEST), f"ONNX format {model.ir_version}"),
        (RELEASE_OF_OPSET.get(opsets.get("ai.onnx", 0), OLDEST), f"operator set {opsets.get('ai.onnx')}"),
        (RELEASE_OF_ML.get(opsets.get(ML, 0), OLDEST), f"operator set {opsets.get(ML)} of {ML}"),
        *((RELEASE_OF_CONTRIB.get(name, OLDEST), name) for domain, name in sorted(used) if domain == CONTRIB),
    ]
    release, reason = max(needs, key=lambda need: Version(need[0]))
    return RuntimeRequirements(release, model.ir_version, opsets, None if release == OLDEST else reason)


def check_requirements(path: Path, target: RuntimeTarget) -> RuntimeRequirements:
    """Return the requirements of a written file. Raises `ExportError` if they are later than the release of `target`."""
    needed = read_requirements(onnx.load(path, load_external_data=False))
    if target.release is not None and Version(needed.onnxruntime) > Version(target.release):
        raise ExportError(
            f"{path.name} needs ONNX Runtime {needed.onnxruntime} for {needed.reason}, and --runtime-min is {target.release}: raise "
            "--runtime-min, or give a smaller --opset."
        )
    return needed
