"""Weights in safetensors, in one file or in several that an index lists; tensors are maps of their file."""

import json
from pathlib import Path

from torch import Tensor

from recprune_export.errors import ModelFileError
from recprune_export.program.loading.weights.torch_files import read_torch_file

_MAX_INDEX_BYTES = 1 << 27


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises `safetensors.SafetensorError` for a damaged file: the library compares the declared sizes with the file's.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no mapping


def read_sharded(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all files that an index (`*.index.json`) lists.

    Raises `ModelFileError` for an index of another form, a file that is outside its folder, and a tensor that is not there.
    """
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise ModelFileError(f"{index} is too large for an index of weights.")
    content = json.loads(index.read_bytes())
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise ModelFileError(f"{index} is not an index of weights: it has no 'weight_map' from names to files.")
    tensors: dict[str, Tensor] = {}
    for file in dict.fromkeys(shards.values()):
        path = index.with_name(Path(file).name)
        if Path(file).name != file or not path.is_file():
            raise ModelFileError(
                f"{index} names '{file}', which does not exist in the same folder: copy the whole folder."
            )
        stored = read_safetensors(path) if file.endswith(".safetensors") else read_torch_file(path)
        tensors |= {name: stored[name] for name, shard in shards.items() if shard == file and name in stored}
    missing = [name for name in shards if not isinstance(tensors.get(name), Tensor)]
    if missing:
        raise ModelFileError(
            f"{index} names '{missing[0]}', which '{shards[missing[0]]}' does not contain: copy the whole folder again."
        )
    return tensors
