"""Prune trained PyTorch recommenders, export them to ONNX for CPU inference, and validate the result.

Public names are imported on first use: `import recprune_export` alone does not import torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recprune_export.api import compress as compress
    from recprune_export.bundle._verify import verify as verify
    from recprune_export.prediction.predictor import Predictor as Predictor
    from recprune_export.program.capture._capture import capture as capture
    from recprune_export.program.program import Program as Program
    from recprune_export.settings import Settings as Settings

__version__ = "0.2.0"

# From release 1.29, ONNX Runtime writes a device id to the cache folder and sends usage data as soon as it is imported,
# unless this variable is set. A value that the user has set is kept.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC_MODULES = {
    "Predictor": "recprune_export.prediction.predictor",
    "Program": "recprune_export.program.program",
    "Settings": "recprune_export.settings",
    "capture": "recprune_export.program.capture._capture",
    "compress": "recprune_export.api",
    "verify": "recprune_export.bundle._verify",
}
__all__ = ["Predictor", "Program", "Settings", "__version__", "capture", "compress", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from recprune_export.installation import describe_missing_module, find_conflict

    if (conflict := find_conflict()) is not None:
        raise ImportError(conflict)
    try:
        return getattr(import_module(_PUBLIC_MODULES[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(describe_missing_module(error, name) or str(error), name=error.name) from error
