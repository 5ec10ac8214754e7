"""Bundles of somebody who means harm or had bad luck: one change each, and the checksums made to fit where that is possible."""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from recprune_export.bundle import MANIFEST
from recprune_export.bundle.contents import make_npz
from recprune_export.bundle.manifest import values_checksum
from tests.bundle.samples import X
from tests.documents import places_of
from tests.program.hostile import Trap

VALUES = (
    None, True, -1, 0, 1e308, 10**40, float("nan"), float("inf"), "", "../../etc/passwd", "\ud800", "\x1b[2J", "\0", "ß ü",
    [], {}, [[]], [None], {"": None}, "batch", "9" * 5000,
)  # fmt: skip
Change = Callable[[Path, random.Random], None]


def reseal(bundle: Path) -> None:
    """Make manifest and files agree, as whoever changed them would."""
    values = json.loads((bundle / MANIFEST).read_bytes())
    import hashlib

    for name in list(values["files"]):
        path = bundle / name
        if path.is_file():
            content = path.read_bytes()
            values["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _seal(bundle, values)


def _seal(bundle: Path, values: Any) -> None:
    try:
        values["checksum"] = values_checksum(values)
    except (ValueError, TypeError):  # a NaN has no checksum
        values["checksum"] = "0" * 64
    (bundle / MANIFEST).write_text(json.dumps(values))


def flip(content: bytes, rng: random.Random) -> bytes:
    """Change a few bits, cut the end off, repeat a part, or put another part in."""
    changed = bytearray(content)
    match rng.randrange(5):
        case 0 | 1:
            for _ in range(rng.choice((1, 1, 2, 8, 64))):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case 2:
            del changed[rng.randrange(len(changed)) :]
        case 3:
            start = rng.randrange(len(changed))
            changed[start:start] = changed[start : start + rng.randrange(1, 64)]
        case 4:
            start = rng.randrange(len(changed))
            changed[start : start + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, rng.randbytes(4)))
    return bytes(changed)


def bytes_of_a_file(bundle: Path, rng: random.Random) -> None:
    """As by a bad disk: nothing is sealed again."""
    path = rng.choice(sorted(p for p in bundle.rglob("*") if p.is_file()))
    path.write_bytes(flip(path.read_bytes(), rng))


def sealed_model(bundle: Path, rng: random.Random) -> None:
    """Other bytes in the ONNX file."""
    path = bundle / "model.onnx"
    path.write_bytes(flip(path.read_bytes(), rng))
    reseal(bundle)


def sealed_samples(bundle: Path, rng: random.Random) -> None:
    """Other bytes in a golden request or answer."""
    path = bundle / rng.choice(("samples/inputs.npz", "samples/outputs.npz"))
    path.write_bytes(flip(path.read_bytes(), rng))
    reseal(bundle)


def sealed_manifest(bundle: Path, rng: random.Random) -> None:
    """Another value, anywhere in the manifest; sometimes one is missing, or too many."""
    values = json.loads((bundle / MANIFEST).read_bytes())
    inside, key = rng.choice(places_of(values))
    if rng.random() < 0.15:
        del inside[key]
    elif isinstance(inside, dict) and rng.random() < 0.15:
        inside[rng.choice(["", "../x", "\x1b[2J", "constructor", "a" * 4000])] = rng.choice(VALUES)
    else:
        inside[key] = rng.choice(VALUES)
    _seal(bundle, values) if isinstance(values, dict) else None


def deep_manifest(bundle: Path, rng: random.Random) -> None:
    """Nested as deep as a reader may just stand, or deeper."""
    text = (bundle / MANIFEST).read_text()
    depth = rng.choice((50, 300, 900, 990, 3000, 100_000))
    left, right = rng.choice((("[", "]"), ('{"a":', "}")))
    inner = "1" if left != "[" else ""
    key = rng.choice(('"parity": {}', '"plan": {}', '"settings": {}'))
    (bundle / MANIFEST).write_text(text.replace(key, f'{key[:-2]}{{"x": {left * depth}{inner}{right * depth}}}'))


def moved_files(bundle: Path, rng: random.Random) -> None:
    """Files listed under names that lead elsewhere, links, and files that are missing or too many."""
    values = json.loads((bundle / MANIFEST).read_bytes())
    outside = bundle.parent / "outside"
    outside.write_bytes(b"secret")
    match rng.randrange(6):
        case 0:
            name = rng.choice(
                ["../outside", str(outside), "samples/../../outside", "a\\..\\b", "\0", "a//b", "./x", " "]
            )
            values["files"][name] = values["files"]["model.onnx"]
        case 1:
            (bundle / "model.onnx").unlink()
            (bundle / "model.onnx").symlink_to(outside)
        case 2:
            shutil.rmtree(bundle / "samples")
            (bundle / "samples").symlink_to(bundle.parent)
        case 3:
            (bundle / "model.onnx").unlink()
            (bundle / "model.onnx").mkdir()
        case 4:
            (bundle / rng.choice(("x", "samples/ü ß", ".hidden"))).write_bytes(b"")
        case 5:
            (bundle / "model.onnx").unlink()
            (bundle / "model.onnx").symlink_to("model.onnx")  # a circle
    _seal(bundle, values)


def huge_sizes(bundle: Path, rng: random.Random) -> None:
    """Much more than there is, as declared."""
    values = json.loads((bundle / MANIFEST).read_bytes())
    many = rng.choice((2**31, 2**40, 2**62, 10**30))
    match rng.randrange(4):
        case 0:
            values["files"]["model.onnx"]["bytes"] = many
            return _seal(bundle, values)
        case 1:
            content = io.BytesIO()
            header = {"descr": "<f4", "fortran_order": False, "shape": (many,)}
            np.lib.format.write_array_header_1_0(content, header)
            with zipfile.ZipFile(bundle / "samples/inputs.npz", "w") as archive:
                archive.writestr("x.npy", content.getvalue() + b"\0" * 12)
        case 2:
            with zipfile.ZipFile(bundle / "samples/inputs.npz", "w", zipfile.ZIP_DEFLATED) as archive:
                content = io.BytesIO()
                np.save(content, np.zeros(1 << 20, dtype=np.float32))
                bomb = content.getvalue()
                for number in range(3):
                    archive.writestr(f"{number or 'x'}.npy", bomb)
        case 3:
            model = onnx.load(bundle / "model.onnx")
            model.graph.initializer[0].dims[:] = [min(many, 2**62)]
            (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)


def foreign_weights(bundle: Path, rng: random.Random) -> None:
    """Weights that lie outside of the bundle, by a path or a link, or beyond the end of their file."""
    outside = bundle.parent / "weights.bin"
    outside.write_bytes(np.array(2.0, dtype=np.float32).tobytes())
    location = rng.choice(
        [str(outside), "../weights.bin", "samples/../../weights.bin", "link.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*"]
    )
    if location == "link.bin":
        (bundle / location).symlink_to(outside)
    model = onnx.load(bundle / "model.onnx")
    tensor = model.graph.initializer[0]
    if rng.random() < 0.3:  # in a constant of the graph instead
        node = helper.make_node("Constant", [], ["two"], value=tensor)
        model.graph.node.insert(0, node)
        tensor = model.graph.node[0].attribute[0].t
        del model.graph.initializer[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "length": "4", "offset": rng.choice(("0", "4096", "-4", "x"))}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)


def pickled_samples(bundle: Path, rng: random.Random) -> None:
    """Golden requests and answers that would run code when unpickled."""
    trap = np.array([Trap(bundle.parent / "marker")], dtype=object)
    name = rng.choice(("samples/inputs.npz", "samples/outputs.npz"))
    with (bundle / name).open("wb") as file:
        if rng.random() < 0.5:
            np.savez(file, **{"x" if "inputs" in name else "y": trap})
        else:
            np.save(file, trap, allow_pickle=True)
    reseal(bundle)


def other_samples(bundle: Path, rng: random.Random) -> None:
    """Requests of other names, shapes and types than the model takes."""
    arrays = rng.choice(
        (
            {}, {"x": X[:, None]}, {"x": X.astype(np.float64)}, {"x": np.array("text")}, {"x": X[:0]}, {"z": X}, {"x": X[0]},
            {"x": X * np.nan}, {"x": X.astype(complex)}, {"x": np.zeros((1, 0, 3), np.float32)},
        )
    )  # fmt: skip
    name, key = rng.choice((("samples/inputs.npz", "x"), ("samples/outputs.npz", "y")))
    (bundle / name).write_bytes(make_npz({key if n == "x" else n: a for n, a in arrays.items()}))
    reseal(bundle)


CHANGES: tuple[Change, ...] = (
    bytes_of_a_file, sealed_model, sealed_samples, sealed_manifest, deep_manifest, moved_files, huge_sizes, foreign_weights,
    pickled_samples, other_samples,
)  # fmt: skip
