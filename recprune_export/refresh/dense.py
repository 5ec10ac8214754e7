"""Find the dense model of a bundle: the file of the user, or the recorded one if it is unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.api import load_model
from recprune_export.errors import UsageError
from recprune_export.program.loading._load_program import LoadedModel
from recprune_export.provenance import file_identity
from recprune_export.refresh.open_bundle import OpenBundle


@dataclass(frozen=True)
class DenseModel:
    """The dense model; `note` if it is not the file from which the bundle was made."""

    loaded: LoadedModel
    file: Mapping[str, str]
    note: str | None = None


@dataclass(frozen=True)
class MissingModel:
    """The reason why there is no dense model, with advice."""

    reason: str


def find_dense(bundle: OpenBundle, model: Path | None, source: Mapping[str, Any]) -> DenseModel | MissingModel:
    """Load `model`, or otherwise the file in the manifest; `source` are the loading options of `load_program`.

    Raises the errors of `load_program` for `model`.
    """
    recorded = bundle.manifest.settings.get("model_file")
    export = bundle.settings.export
    if model is not None:
        loaded, file = load_model(model, None, source, export), file_identity(model)
        differs = recorded is not None and file["sha256"] != recorded["sha256"]
        note = f"{model} is not the file from which {bundle.path} was made; it is used as its successor."
        return DenseModel(loaded, file, note if differs else None)
    if recorded is None:
        name = bundle.manifest.settings.get("model", "the dense model")
        return MissingModel(
            f"{bundle.path} does not record the path of its dense model '{name}': give it with --model."
        )
    path = Path(recorded["path"])
    if not path.exists():
        return MissingModel(f"The dense model {path} no longer exists: give it with --model.")
    file = file_identity(path)
    if file["sha256"] != recorded["sha256"]:
        return MissingModel(f"{path} has changed since {bundle.path} was made: give the dense model with --model.")
    try:
        return DenseModel(load_model(path, None, source, export), file)
    except UsageError as error:
        return MissingModel(str(error))
