"""Find the dense model that a bundle was made of: where the user says, or where it was and if it is still the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.api import load
from recprune_export.errors import UsageError
from recprune_export.program.loading.load_program import LoadedModel
from recprune_export.provenance import file_identity
from recprune_export.refresh.open_bundle import Shipped


@dataclass(frozen=True)
class Dense:
    """The dense model; `note` where it is not the file that the bundle was made of."""

    loaded: LoadedModel
    file: Mapping[str, str]
    note: str | None = None


@dataclass(frozen=True)
class Missing:
    """Why there is no dense model, and what to give."""

    reason: str


def find_dense(shipped: Shipped, model: Path | None, source: Mapping[str, Any]) -> Dense | Missing:
    """Load `model`, or else the file that the manifest names; `source` are the loading options of `load_program`.

    Raises what `load_program` raises for a model that was given.
    """
    recorded = shipped.manifest.settings.get("model_file")
    if model is not None:
        loaded, file = load(model, None, source), file_identity(model)
        other = recorded is not None and file["sha256"] != recorded["sha256"]
        note = f"{model} is not the file that {shipped.path} was made of, so it is taken for its successor."
        return Dense(loaded, file, note if other else None)
    if recorded is None:
        name = shipped.manifest.settings.get("model", "the dense model")
        return Missing(f"{shipped.path} does not say where '{name}' lies, of which it was made: give it with --model.")
    path = Path(recorded["path"])
    if not path.is_file():
        return Missing(f"The dense model {path} is not there any more: give it with --model.")
    found = file_identity(path)
    if found["sha256"] != recorded["sha256"]:
        return Missing(f"{path} has changed since {shipped.path} was made of it: give the dense model with --model.")
    try:
        return Dense(load(path, None, source), found)
    except UsageError as error:
        return Missing(str(error))
