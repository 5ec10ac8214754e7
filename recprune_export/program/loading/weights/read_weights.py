"""Read the tensors of a model file of any kind, under the keys and names in the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from recprune_export.error_text import summarize_error
from recprune_export.errors import ModelFileError
from recprune_export.program.loading.model_kind import ModelKind, find_weights_file
from recprune_export.program.loading.weights.distributed_checkpoint import DistributedCheckpoint
from recprune_export.program.loading.weights.safetensors_files import read_safetensors, read_sharded
from recprune_export.program.loading.weights.torch_files import read_archive_record, read_torch_file


@dataclass(frozen=True)
class StoredWeights:
    """Nested dicts of tensors; `load` reads the numbers of chosen tensors that `content` has without numbers.

    `stream` does the same, but leaves the numbers of long tables in their files, if the kind of file allows this.
    """

    content: Any
    load: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    stream: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None


def read_weights(path: Path, kind: ModelKind) -> StoredWeights:
    """Read the tensors of a file or folder of `kind`; nothing in it is executed.

    Raises `ModelFileError` for a damaged file, and for one whose declared sizes are not stored.
    """
    try:
        return _READERS[kind](path)
    except ModelFileError:
        raise
    except Exception as error:  # torch, safetensors, zipfile and pickletools raise many unrelated classes
        raise ModelFileError(
            f"{path} is {kind.value}, but damaged ({summarize_error(error)}): write it again."
        ) from error


def _read_folder(folder: Path) -> StoredWeights:
    file = find_weights_file(folder)
    if file is None:
        raise ModelFileError(f"{folder} contains no weights: download the whole model.")
    if file.name.endswith(".index.json"):
        return StoredWeights(read_sharded(file))
    return StoredWeights(read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file))


def _read_distributed(folder: Path) -> StoredWeights:
    checkpoint = DistributedCheckpoint(folder)
    return StoredWeights(checkpoint.content, checkpoint.load, checkpoint.stream)


_READERS: dict[ModelKind, Callable[[Path], StoredWeights]] = {
    ModelKind.STATE_DICT: lambda path: StoredWeights(read_torch_file(path)),
    ModelKind.PICKLED_MODULE: lambda path: StoredWeights(read_torch_file(path)),
    ModelKind.TORCHSCRIPT: lambda path: StoredWeights(read_archive_record(path)),
    ModelKind.SAFETENSORS: lambda path: StoredWeights(read_safetensors(path)),
    ModelKind.SHARDED: lambda path: StoredWeights(read_sharded(path)),
    ModelKind.HUGGING_FACE: _read_folder,
    ModelKind.DISTRIBUTED: _read_distributed,
}
WEIGHT_KINDS = frozenset(_READERS)
