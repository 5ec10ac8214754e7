"""Keep the weights of a `.pt2` program in their file: memory maps replace the copies that torch.export makes."""

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

_CONFIG = "data/weights/model_weights_config.json"
_LOCAL_HEADER = 30  # bytes, before the name of a record and its extra field, whose lengths are the last two numbers


def share_stored_weights(exported: torch.export.ExportedProgram, path: Path) -> None:
    """Make the parameters of `exported`, which was loaded from `path`, use the bytes in the file if these are equal.

    Time: one comparison of the weights. Memory: none for the weights afterwards; writes to a parameter are not written to the file.
    Parameters that the file stores in another way, such as a part of another parameter, are not changed.
    """
    stored = dict(_map_weights(path))
    for name, parameter in exported.state_dict.items():
        numbers = stored.get(name)
        if not isinstance(parameter, torch.nn.Parameter) or numbers is None or numbers.nbytes() != parameter.nbytes:
            continue
        mapped = torch.empty(0, dtype=parameter.dtype).set_(numbers).reshape(parameter.shape)
        if parameter.is_contiguous() and torch.equal(parameter, mapped):
            parameter.data = mapped


def map_records(path: Path) -> dict[str, torch.UntypedStorage]:
    """Return the bytes of each record that lies uncompressed in a zip archive, by its whole name, as maps of the file.

    Raises the errors of `zipfile` for a damaged archive.
    """
    content = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    records = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or not entry.file_size:
                continue
            file.seek(entry.header_offset)
            lengths = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
            start = entry.header_offset + _LOCAL_HEADER + sum(lengths)
            records[entry.filename] = content[start : start + entry.file_size]
    return records


def _map_weights(path: Path) -> Iterator[tuple[str, torch.UntypedStorage]]:
    """Yield the name and the bytes of each weight that lies uncompressed in the archive."""
    records = {name.partition("/")[2]: content for name, content in map_records(path).items()}
    with zipfile.ZipFile(path) as archive:
        config = next((entry for entry in archive.namelist() if entry.partition("/")[2] == _CONFIG), None)
        if config is None:
            return
        # Another release of torch may write another layout; its weights are loaded, but not mapped.
        for name, weight in json.loads(archive.read(config)).get("config", {}).items():
            content = records.get(f"data/weights/{weight.get('path_name')}")
            if content is not None:
                yield name, content
