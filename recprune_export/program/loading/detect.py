"""Detection of the kind of a model file from its content, without executing anything in it."""

import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import torch

CHECKPOINT_FORMAT = "recprune-export/checkpoint"
# The first number in files that torch.save wrote before version 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_NESTED_STATE = ("state_dict", "model_state_dict")


class ModelKind(Enum):
    """The kind of a model file; the value is its description in messages."""

    CHECKPOINT = "a checkpoint of recprune-export"
    STATE_DICT = "a PyTorch state dict"
    PICKLED_MODULE = "a pickle of Python objects"
    PROGRAM = "a .pt2 program"
    MODULE = "a module in memory"
    OLD_PROGRAM = "a .pt2 program of an old torch"
    TORCHSCRIPT = "a TorchScript archive"
    SAFETENSORS = "a safetensors file"
    ONNX = "an ONNX model"
    DATA = "a data file"
    BUNDLE = "a bundle"
    DIRECTORY = "a directory"
    MISSING = "nothing"
    EMPTY = "an empty file"
    TRUNCATED_ZIP = "a zip archive that is cut off or damaged"
    OTHER_ZIP = "a zip archive that PyTorch did not write"
    UNKNOWN_DICT = "a PyTorch file that holds neither a state dict nor a checkpoint"
    OTHER = "a file of an unknown kind"


def detect_model_kind(path: Path) -> ModelKind:
    """Return the kind of a model file from its content, without executing pickles.

    A missing file is `ModelKind.MISSING`; no error is raised for it.
    """
    if path.is_dir():
        return ModelKind.BUNDLE if (path / "manifest.json").is_file() else ModelKind.DIRECTORY
    if not path.is_file():
        return ModelKind.MISSING
    with path.open("rb") as file:
        head = file.read(16)
        if not head:
            return ModelKind.EMPTY
        if head.startswith(b"PK"):
            return _detect_zip(path)
        if head.startswith(b"PAR1"):
            return ModelKind.DATA
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            return ModelKind.SAFETENSORS
        file.seek(0)
        if head.startswith(b"\x80") and next(_pickle(file), None) is not None:
            return _detect_weights(path, file)
    return ModelKind.ONNX if head[0] == 0x08 and _is_onnx(path) else ModelKind.OTHER


def find_state_dict(content: Any) -> dict[str, torch.Tensor] | None:
    """Return the state dict in the result of `torch.load(weights_only=True)`, itself or under a usual key, or None."""
    if not isinstance(content, Mapping):
        return None
    nested = [content[key] for key in _NESTED_STATE if isinstance(content.get(key), Mapping)]
    state = nested[0] if nested else content
    if state and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        return dict(state)
    return None


def find_unsafe_globals(path: Path) -> list[str]:
    """Return the names of the classes and functions that unpickling a file would import, except those of tensors."""
    try:
        if zipfile.is_zipfile(path):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        with path.open("rb") as file:
            return sorted({name for name in _globals(file) if not name.startswith(("torch.", "collections."))})
    except Exception:  # the names only improve a message; loading the file reports any damage
        return []


def is_legacy_torch_file(path: Path) -> bool:
    """Return whether `torch.save` before 1.6 wrote the file (several pickles in sequence, the first is a number)."""
    with path.open("rb") as file:
        return _first_is_magic(file)


def is_torch_zip(archive: zipfile.ZipFile, path: Path) -> bool:
    """Return whether a zip is as torch writes them: uncompressed, unique relative names, no bytes in two records.

    The content of such a file is never larger than the file.
    """
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    inside = all(not name.startswith("/") and ".." not in name.split("/") and "\\" not in name for name in names)
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return inside and stored and len(names) == len(entries) and sum(e.file_size for e in entries) <= path.stat().st_size


def _detect_zip(path: Path) -> ModelKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            plain = is_torch_zip(archive, path)
    except Exception:  # zipfile raises NotImplementedError, UnicodeDecodeError, struct.error, ... as well
        return ModelKind.TRUNCATED_ZIP
    if "serialized_exported_program.json" in names:
        return ModelKind.OLD_PROGRAM
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return ModelKind.TORCHSCRIPT
    if "archive_format" in names and plain:
        return ModelKind.PROGRAM
    if "data.pkl" not in names or not plain:
        return ModelKind.OTHER_ZIP
    if find_unsafe_globals(path):
        return ModelKind.PICKLED_MODULE
    return _weights_kind(path, mmap=True, damaged=ModelKind.TRUNCATED_ZIP)


def _detect_weights(path: Path, file: BinaryIO) -> ModelKind:
    if not _first_is_magic(file):
        return ModelKind.PICKLED_MODULE
    return _weights_kind(path, mmap=False, damaged=ModelKind.PICKLED_MODULE)


def _weights_kind(path: Path, *, mmap: bool, damaged: ModelKind) -> ModelKind:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except Exception:  # torch.load raises many unrelated classes for a damaged file
        return damaged
    if isinstance(content, Mapping) and content.get("format") == CHECKPOINT_FORMAT:
        return ModelKind.CHECKPOINT
    return ModelKind.STATE_DICT if find_state_dict(content) is not None else ModelKind.UNKNOWN_DICT


def _pickle(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield the opcodes of one pickle without running it; yield nothing where there is no pickle."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode.name, argument
    except Exception:  # pickletools raises ValueError, struct.error, UnicodeDecodeError, ... for other content
        return


def _first_is_magic(file: BinaryIO) -> bool:
    file.seek(0)
    # PROTO, the number, STOP
    operations = [argument for _, argument in zip(range(3), _pickle(io.BytesIO(file.read(64))), strict=False)]
    return any(argument == _LEGACY_MAGIC for _, argument in operations)


def _globals(file: BinaryIO) -> Iterator[str]:
    strings: list[str] = []
    # A legacy file holds five pickles (magic number, version, system, content, storage keys); a plain file holds one.
    for _ in range(5):
        for name, argument in _pickle(file):
            if name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif name == "STACK_GLOBAL" and len(strings) >= 2:
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)


def _is_onnx(path: Path) -> bool:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf raises its own classes for other content
        return False
    return bool(model.graph.node or model.graph.initializer)
