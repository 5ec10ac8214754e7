"""Package versions and machine of a run, for the manifest."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recprune_export.installation import WHOLE, find_distribution

PACKAGES = (
    "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "polars", "protobuf", "pydantic",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return package versions, operating system, CPU and the number of cores that this process may use."""
    return {
        "python": platform.python_version(),
        "packages": {WHOLE: _version(find_distribution()), **{name: _version(name) for name in PACKAGES}},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": read_cpu_name(),
        "cores": count_cores(),
    }


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_cpu_name() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
