"""Detection of the kind of a model file from its content, without executing anything in it."""

import io
import pickletools
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from recprune_export.program.loading.model_kind import ModelKind, find_folder_kind
from recprune_export.program.loading.weights.state_dicts import find_state_dicts
from recprune_export.program.loading.weights.torch_files import LEGACY_MAGIC, is_torch_zip, read_torch_file

CHECKPOINT_FORMAT = "recprune-export/checkpoint"
_MAX_INDEX_HEAD = 1 << 16  # bytes of a JSON file in which the key of an index is searched
_TEXT_PICKLE = b"(}]cL"  # first bytes of a pickle of protocol 0 or 1: of a dict, a list, a class, or the first number of `torch.save`
_OLD_TORCH_MEMBERS = {"sys_info", "pickle", "tensors", "storages"}


def detect_model_kind(path: Path) -> ModelKind:
    """Return the kind of a model file from its content, without executing pickles.

    A missing file is `ModelKind.MISSING`; no error is raised for it.
    """
    if path.is_dir():
        return find_folder_kind(path)
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
            return _detect_content(path, damaged=ModelKind.PICKLED_MODULE)
        if head.lstrip().startswith(b"{") and _is_index(path):
            return ModelKind.SHARDED
    if head[:1] in _TEXT_PICKLE:
        # Protocols 0 and 1 have no signature, and some texts can be read as such pickles: the content must have
        # tensors.
        with suppress(Exception):  # read_inert raises many unrelated classes for other data than pickles
            if (kind := _detect_tensors(path)) is not None:
                return kind
    if tarfile.is_tarfile(path):
        return _detect_tar(path)
    # A damaged file is recognized only by its name.
    return ModelKind.ONNX if path.suffix == ".onnx" or (head[0] == 0x08 and _is_onnx(path)) else ModelKind.OTHER


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


def _detect_zip(path: Path) -> ModelKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            plain = is_torch_zip(archive.infolist(), path.stat().st_size)
    except Exception:  # zipfile raises NotImplementedError, UnicodeDecodeError, struct.error, ... as well
        return ModelKind.TRUNCATED_ZIP
    if "serialized_exported_program.json" in names:
        return ModelKind.OLD_PROGRAM
    if "constants.pkl" in names:  # torch.load hands such an archive to torch.jit.load
        return ModelKind.TORCHSCRIPT
    if "archive_format" in names and plain:
        return ModelKind.PROGRAM
    if "data.pkl" not in names or not plain:
        return ModelKind.OTHER_ZIP
    return _detect_content(path, damaged=ModelKind.TRUNCATED_ZIP)


def _detect_tar(path: Path) -> ModelKind:
    try:
        with tarfile.open(path, "r:") as archive:
            names = [entry.name for _, entry in zip(_OLD_TORCH_MEMBERS, archive, strict=False)]
    except tarfile.TarError:  # it is compressed, which PyTorch never does
        return ModelKind.TAR
    return ModelKind.OLD_TORCH_TAR if set(names) == _OLD_TORCH_MEMBERS else ModelKind.TAR


def _detect_content(path: Path, damaged: ModelKind) -> ModelKind:
    """Return the kind of a file of `torch.save` or `pickle.dump`; objects beside a state dict do not matter."""
    try:
        kind = _detect_tensors(path)
    except Exception:  # torch, zipfile and pickletools raise many unrelated classes for a damaged file
        return damaged
    return kind or (ModelKind.PICKLED_MODULE if find_unsafe_globals(path) else ModelKind.UNKNOWN_DICT)


def _detect_tensors(path: Path) -> ModelKind | None:
    """Return the kind of a file of `torch.save` or `pickle.dump` by its tensors; None if it has none.

    Raises errors of many classes for a damaged file.
    """
    content = read_torch_file(path)
    states = find_state_dicts(content)
    if isinstance(content, Mapping) and content.get("format") == CHECKPOINT_FORMAT:
        return ModelKind.CHECKPOINT
    if any(not state.in_object for state in states):
        return ModelKind.STATE_DICT
    return ModelKind.PICKLED_MODULE if states else None


def _is_index(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"weight_map"' in file.read(_MAX_INDEX_HEAD) or path.name.endswith(".index.json")


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
    return any(argument == LEGACY_MAGIC for _, argument in operations)


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
