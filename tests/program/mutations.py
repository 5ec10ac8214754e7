"""Model files that were changed by accident or by somebody who means harm."""

import io
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.bundle.mutations import flip
from tests.documents import places_of
from tests.program.hostile import GRAPH, Trap, in_json, rewrite

Change = Callable[[Path, random.Random], None]
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**40, 10**30, float("nan"), "", "../x", "\ud800", "dlrm", [], {}, [None], {"": {}}, (1, 2), torch.zeros(2),
)  # fmt: skip


def flipped(path: Path, rng: random.Random) -> None:
    """Other bytes anywhere."""
    path.write_bytes(flip(path.read_bytes(), rng))


def flipped_record(path: Path, rng: random.Random) -> None:
    """Other bytes in one record of the zip, with the checksums of the zip made to fit."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([n for n, content in records.items() if content])
    records[name] = flip(records[name], rng)
    _write(path, records)


def compressed(path: Path, rng: random.Random) -> None:
    """A record that unpacks to a thousand times as much."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(records))
    records[name] += b"\0" * (1 << 22)
    _write(path, records, zipfile.ZIP_DEFLATED)


def overlapping(path: Path, rng: random.Random) -> None:
    """A table of contents that gives several records the same bytes, or the same name twice."""
    with zipfile.ZipFile(path, "a") as archive:
        name = rng.choice(archive.namelist())
        if rng.random() < 0.5:
            archive.writestr(name, b"other")
        else:
            for number in range(20):
                entry = archive.getinfo(name)
                copy = zipfile.ZipInfo(f"{name}.{number}")
                copy.header_offset, copy.file_size, copy.compress_size = (
                    entry.header_offset,
                    entry.file_size,
                    entry.file_size,
                )
                copy.CRC = entry.CRC
                archive.filelist.append(copy)
                archive._didModify = True


def names_outside(path: Path, rng: random.Random) -> None:
    """Records whose names lead elsewhere."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(rng.choice(["../../escape", "/tmp/escape", "a/../../b", "\\..\\x"]), b"x")


def pickled(path: Path, rng: random.Random) -> None:
    """An object that runs code when it is unpickled, in several wrappings."""
    trap = Trap(path.parent / "marker")
    match rng.randrange(4):
        case 0:
            torch.save({"state_dict": trap}, path)
        case 1:
            path.write_bytes(pickle.dumps(trap, protocol=rng.randrange(6)))
        case 2:
            torch.save({"format": "recprune-export/checkpoint", "x": trap}, path, _use_new_zipfile_serialization=False)
        case 3:
            with zipfile.ZipFile(path) as archive:
                records = {name: archive.read(name) for name in archive.namelist()}
            name = next((n for n in records if n.endswith("data.pkl")), next(iter(records)))
            records[name] = pickle.dumps(trap)
            _write(path, records)


def stretched(path: Path, rng: random.Random) -> None:
    """Weights of a size that is declared and not there: one number, repeated by a stride of 0."""
    rows = rng.choice((10**6, 10**10, 10**14))
    wide = torch.zeros(1).expand(rows, 64)
    content = _content(path)
    if isinstance(content, dict) and isinstance(content.get("state"), dict):
        state = content["state"]
        state[rng.choice(list(state))] = wide
        torch.save(content, path)
    else:
        torch.save({"weight": wide, "bias": torch.zeros(1)}, path)


def other_values(path: Path, rng: random.Random) -> None:
    """Another value anywhere in a checkpoint, or in the graph of a program."""
    content = _content(path)
    if content is None:
        rewrite(path, in_json(GRAPH, lambda document: _change(document, rng, [v for v in VALUES if _is_json(v)])))
    else:
        _change(content, rng, list(VALUES))
        torch.save(content, path)


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | str | list | dict)


def _change(document: Any, rng: random.Random, values: list[Any]) -> None:
    inside, key = rng.choice(places_of(document))
    if rng.random() < 0.2:
        del inside[key]
    else:
        inside[key] = rng.choice(values)


def _content(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True)
    except Exception:
        return None


def _write(path: Path, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())


CHANGES: tuple[Change, ...] = (
    flipped, flipped_record, compressed, overlapping, names_outside, pickled, stretched, other_values, other_values, flipped,
)  # fmt: skip
