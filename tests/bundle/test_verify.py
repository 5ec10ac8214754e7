import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recprune_export.bundle import verify, write_bundle
from recprune_export.bundle.contents import make_npz
from recprune_export.bundle.manifest import values_checksum
from recprune_export.bundle.manifest.manifest import MANIFEST_LIMIT
from recprune_export.errors import BundleError, RecpruneError, ValidationFailed
from recprune_export.onnx import make_session
from recprune_export.onnx.runtime import session
from tests.bundle.samples import X, files, manifest, write


def test_what_was_written_verifies(tmp_path: Path) -> None:
    verification = verify(write(tmp_path / "bundle"))
    assert (verification.name, verification.files, verification.rows) == ("double", 3, 3)
    assert verification.outputs[0].max_absolute == 0.0


@pytest.mark.parametrize("seed", range(30))
def test_any_changed_byte_is_found(tmp_path: Path, seed: int) -> None:
    bundle = write(tmp_path / "bundle")
    rng = random.Random(seed)
    path = rng.choice(sorted(p for p in bundle.rglob("*") if p.is_file()))
    content = bytearray(path.read_bytes())
    position = rng.randrange(len(content))
    content[position] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    if path.name == "manifest.json" and _says_the_same(bytes(content), bundle):
        return  # white space
    with pytest.raises(RecpruneError, match=path.name):
        verify(bundle)


def _says_the_same(content: bytes, bundle: Path) -> bool:
    original = write(bundle.with_name("original")) / "manifest.json"
    try:
        return bool(json.loads(content) == json.loads(original.read_bytes()))
    except ValueError:
        return False


def test_a_missing_and_an_extra_file_are_named(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    (bundle / "samples/inputs.npz").rename(bundle / "samples/extra.npz")
    with pytest.raises(
        BundleError, match=r"(?s)samples/inputs.npz.*samples/extra.npz|samples/extra.npz.*samples/inputs.npz"
    ):
        verify(bundle)


@pytest.mark.parametrize("target", ["elsewhere", "samples", "."])
def test_a_link_to_a_folder_is_named_as_a_file_too_many(tmp_path: Path, target: str) -> None:
    bundle = write(tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    (bundle / "extra").symlink_to(tmp_path / "elsewhere" if target == "elsewhere" else bundle / target)
    with pytest.raises(BundleError, match="not in the manifest 'extra'"):
        verify(bundle)


def test_a_manifest_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    text = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(text + b" " * (MANIFEST_LIMIT - len(text)))
    assert verify(bundle).files == 3
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(8 << 30)  # without a block on the disk; to read it would take its memory
    with pytest.raises(BundleError, match="more than the limit of 4,194,304: it was not read"):
        verify(bundle)


def test_a_manifest_that_was_edited_is_found(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    values = json.loads((bundle / "manifest.json").read_text())
    values["metrics"]["pruned"]["auc"] = 0.99
    (bundle / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="changed after the bundle was written"):
        verify(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "samples/../../outside", "manifest.json", "a\\b", ""])
def test_a_name_that_leads_out_of_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    bundle = write(tmp_path / "bundle")
    (tmp_path / "outside").write_text("")
    values = json.loads((bundle / "manifest.json").read_text())
    values["files"][name] = values["files"]["model.onnx"]
    values["checksum"] = values_checksum(values)
    (bundle / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="not allowed in a bundle"):
        verify(bundle)


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    (bundle / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        verify(bundle)


@pytest.mark.parametrize("off", [np.nan, 0.1, 1e-3])
def test_golden_answers_that_are_not_given_are_found(tmp_path: Path, off: float) -> None:
    bundle = write_bundle(tmp_path / "bundle", files(y=(2 * X + np.float32(off)).astype(np.float32)), manifest())
    with pytest.raises(ValidationFailed, match=r"Output 'y' of model\.onnx differs"):
        verify(bundle)


def test_golden_answers_are_not_unpickled(tmp_path: Path) -> None:
    pickled = {**files(), "samples/outputs.npz": make_npz({"y": np.array([{}], dtype=object)})}
    bundle = write_bundle(tmp_path / "bundle", pickled, manifest())
    with pytest.raises(BundleError, match="plain NumPy arrays"):
        verify(bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "other"}', b"\xff\xfe", b"[" * 5000])
def test_another_file_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError):
        verify(tmp_path)


def test_torch_is_not_needed(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it would raise
        f"from recprune_export.cli import main; main(['verify', {str(bundle)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "double: 3 files" in done.stdout


def test_each_onnx_file_is_loaded_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(path: Path, threads: int) -> Any:
        loaded.append(path.name)
        return make_session(path, threads)

    monkeypatch.setattr(session, "make_session", load)
    verify(bundle)
    assert loaded == ["model.onnx"]
