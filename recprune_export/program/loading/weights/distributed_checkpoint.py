"""Folders of `torch.distributed.checkpoint`: `.metadata`, a pickle that is read without being executed, and files of shards.

`.metadata` holds for each tensor its dtype, its size and its chunks (offsets and sizes), and for each chunk the file and
the bytes in which `torch.save` wrote it.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recprune_export.errors import ModelFileError
from recprune_export.program.loading.model_kind import DISTRIBUTED_METADATA
from recprune_export.program.loading.weights.inert_objects import InertObject
from recprune_export.program.loading.weights.inert_unpickler import InertPickleError, find_dtype, unpickle_inert
from recprune_export.program.loading.weights.stream_windows import FileWindow, locate_numbers
from recprune_export.program.streamed_tables.stored_parts import StoredPart, StoredParts
from recprune_export.program.streamed_tables.streamed_table import StreamedTable

LEAST_STREAMED = 1 << 20  # bytes of a table whose numbers stay in the files
_MAX_CHUNKS = 4096  # of one tensor; one for each process that saved a part of it


@dataclass(frozen=True)
class _Chunk:
    """A box of a tensor, and where its numbers are stored."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int

    def overlaps(self, other: "_Chunk") -> bool:
        return all(
            a < b + n and b < a + m
            for a, m, b, n in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        )

    @property
    def numel(self) -> int:
        return torch.Size(self.sizes).numel()


class DistributedCheckpoint:
    """The tensors of a folder: `content` has them on the meta device, under the keys of the saved dict, until `load`.

    So the states of an optimizer are not read. Values of other kinds are left out.

    Raises `ModelFileError` for a tensor whose chunks do not make it up or are not stored, and the errors of `unpickle_inert`.
    """

    def __init__(self, folder: Path) -> None:
        metadata = unpickle_inert(io.BytesIO((folder / DISTRIBUTED_METADATA).read_bytes()), _refuse_storage)
        self._folder = folder
        self._places = {
            (_get(index, "fqn", str), _get_numbers(index, "offset")): place
            for index, place in _get(metadata, "storage_data", dict).items()
            if isinstance(index, InertObject) and index.entries.get("offset") is not None
        }
        self._stored: dict[int, tuple[Tensor, str, list[_Chunk]]] = {}
        self.content: dict[str, Any] = {}
        for name, entry in _get(metadata, "state_dict_metadata", dict).items():
            if isinstance(entry, InertObject) and "chunks" in entry.entries and isinstance(name, str):
                _insert(
                    self.content, _find_keys(name, metadata.entries.get("planner_data")), self._declare(name, entry)
                )

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the numbers of some tensors of `content`, under the same names."""
        return {name: self._read(*self._stored[id(tensor)]) for name, tensor in tensors.items()}

    def stream(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return some tensors of `content`: long matrices as streamed tables, whose numbers stay in the files, and others loaded.

        Raises `ModelFileError` if a file holds something else than it should.
        """
        return {name: self._open(name, *self._stored[id(tensor)]) for name, tensor in tensors.items()}

    def _open(self, name: str, declared: Tensor, stored_name: str, chunks: Sequence[_Chunk]) -> Tensor:
        if declared.ndim != 2 or not declared.is_floating_point() or declared.nbytes < LEAST_STREAMED:
            return self._read(declared, stored_name, chunks)
        parts = [
            StoredPart(
                chunk.file,
                locate_numbers(chunk.file, chunk.start, chunk.length, chunk.sizes, declared.dtype),
                *chunk.offsets,
                *chunk.sizes,
            )
            for chunk in chunks
            if chunk.numel
        ]
        return StreamedTable(StoredParts(name, (declared.shape[0], declared.shape[1]), declared.dtype, parts))

    def _declare(self, name: str, entry: InertObject) -> Tensor:
        """Return a tensor without numbers, after checking that all of its chunks are stored."""
        size, dtype = _get_numbers(entry, "size"), _find_dtype(_get(entry, "properties", InertObject))
        declared = [chunk for chunk in _get(entry, "chunks", list) if isinstance(chunk, InertObject)]
        chunks = [_locate(name, chunk, self._places, self._folder) for chunk in declared]
        _check_cover(name, size, chunks, dtype)
        tensor = torch.empty(size, dtype=dtype, device="meta")
        self._stored[id(tensor)] = (tensor, name, chunks)
        return tensor

    def _read(self, declared: Tensor, name: str, chunks: Sequence[_Chunk]) -> Tensor:
        if len(chunks) == 1:
            return _read_chunk(name, chunks[0], declared.dtype)
        tensor = torch.empty(declared.shape, dtype=declared.dtype)
        for chunk in chunks:
            box = tuple(slice(start, start + length) for start, length in zip(chunk.offsets, chunk.sizes, strict=True))
            tensor[box] = _read_chunk(name, chunk, declared.dtype)
        return tensor


def _find_dtype(properties: InertObject) -> torch.dtype:
    """Return the dtype of `TensorProperties`, which is pickled as a tuple that begins with it."""
    state = properties.state
    return find_dtype(state[0] if isinstance(state, tuple) and state else properties.entries.get("dtype"))


def _locate(name: str, chunk: InertObject, places: Mapping[tuple[str, tuple[int, ...]], Any], folder: Path) -> _Chunk:
    offsets, sizes = _get_numbers(chunk, "offsets"), _get_numbers(chunk, "sizes")
    place = places.get((name, offsets))
    if place is None:
        raise ModelFileError(
            f"{folder} does not specify where the part of '{name}' at {list(offsets)} is stored: copy the folder again."
        )
    relative = _get(place, "relative_path", str)
    file, (start, length) = folder / Path(relative).name, (_get(place, "offset", int), _get(place, "length", int))
    if Path(relative).name != relative or not file.is_file():
        raise ModelFileError(
            f"{folder} refers to the file '{relative[:80]}', which does not exist: copy the whole folder."
        )
    if start < 0 or length < 0 or start + length > file.stat().st_size:
        raise ModelFileError(f"{file} is truncated: '{name}' is beyond its end; copy the file again.")
    transforms = place.entries.get("transform_descriptors")
    if transforms:
        raise ModelFileError(f"{file} is compressed ({str(transforms)[:60]}): save the checkpoint without extensions.")
    return _Chunk(offsets, sizes, file, start, length)


def _check_cover(name: str, size: tuple[int, ...], chunks: Sequence[_Chunk], dtype: torch.dtype) -> None:
    """Raise `ModelFileError` unless the chunks are stored and make up the whole tensor, each number once."""
    inside = all(
        len(chunk.offsets) == len(chunk.sizes) == len(size)
        and all(start + length <= end for start, length, end in zip(chunk.offsets, chunk.sizes, size, strict=True))
        for chunk in chunks
    )
    whole = inside and sum(chunk.numel for chunk in chunks) == torch.Size(size).numel() and len(chunks) <= _MAX_CHUNKS
    if not whole or any(a.overlaps(b) for a, b in combinations([c for c in chunks if c.numel], 2)):
        raise ModelFileError(
            f"'{name}' of shape {list(size)} is not covered by its {len(chunks)} parts: save the checkpoint again."
        )
    if any(chunk.numel * dtype.itemsize > chunk.length for chunk in chunks):
        raise ModelFileError(f"'{name}' of shape {list(size)} declares more numbers than are stored: refused.")


def _read_chunk(name: str, chunk: _Chunk, dtype: torch.dtype) -> Tensor:
    with FileWindow(chunk.file, chunk.start, chunk.length) as window:
        tensor = torch.load(window, weights_only=True, map_location="cpu")
    if not isinstance(tensor, Tensor) or (tuple(tensor.shape), tensor.dtype) != (chunk.sizes, dtype):
        raise ModelFileError(
            f"{chunk.file} does not contain the part of '{name}' at {list(chunk.offsets)}: copy it again."
        )
    return tensor.detach()


def _find_keys(name: str, paths: Any) -> tuple[str, ...]:
    """Return the keys of the nested dict that were joined to `name`; the name itself where the planner did not save them."""
    keys = paths.get(name) if isinstance(paths, dict) else None
    return tuple(map(str, keys)) if isinstance(keys, tuple) and 0 < len(keys) < 10 else (name,)


def _insert(content: dict[str, Any], keys: tuple[str, ...], tensor: Tensor) -> None:
    for key in keys[:-1]:
        inner = content.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InertPickleError(f"its key '{key}' is a tensor and a dict")
        content = inner
    content[keys[-1]] = tensor


def _get(value: Any, name: str, kind: type) -> Any:
    """Return an attribute of a pickled object. Raises `InertPickleError` if it is none or of another kind."""
    attribute = value.entries.get(name) if isinstance(value, InertObject) else None
    if not isinstance(attribute, kind) or isinstance(attribute, bool):
        raise InertPickleError(f"its {name} is missing")
    return attribute


def _get_numbers(value: Any, name: str) -> tuple[int, ...]:
    numbers = _get(value, name, tuple)
    if len(numbers) > 32 or not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise InertPickleError(f"its {name} are no sizes")
    return tuple(numbers)


def _refuse_storage(identity: Any) -> Any:
    raise InertPickleError("its metadata refer to numbers")
