"""Whatever is done to whichever file of a complete bundle, `verify` finds it and names the file."""

import json
import random
import shutil
from pathlib import Path

import pytest

from recprune_export.bundle import verify
from recprune_export.bundle.manifest import values_checksum
from recprune_export.errors import BundleError, RecpruneError
from tests.bundle.complete import files, write

NAMES = sorted({*files(), "manifest.json"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def test_the_whole_bundle_verifies(whole: Path) -> None:
    assert verify(whole).files == len(NAMES) - 1
    assert sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_anywhere_is_found(bundle: Path, name: str) -> None:
    original, rng = (bundle / name).read_bytes(), random.Random(name)
    for position in {0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(12))}:
        content = bytearray(original)
        content[position] ^= 1 << rng.randrange(8)
        (bundle / name).write_bytes(content)
        if name == "manifest.json" and says_the_same(bytes(content), original):
            continue  # white space
        with pytest.raises(RecpruneError, match=rf"(?s)manifest\.json|changed.*'{name}'") as found:
            verify(bundle)
        assert name in str(found.value)


def says_the_same(content: bytes, original: bytes) -> bool:
    try:
        return bool(json.loads(content) == json.loads(original))
    except ValueError:
        return False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["cut", "grown", "emptied"])
def test_another_length_is_found(bundle: Path, name: str, change: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes({"cut": content[:-2], "grown": content + b"0", "emptied": b""}[change])
    with pytest.raises(RecpruneError) as found:
        verify(bundle)
    assert name in str(found.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=r"missing|has no manifest") as found:
        verify(bundle)
    assert name in str(found.value)


@pytest.mark.parametrize("folder", sorted({str(Path(name).parent) for name in NAMES}))
@pytest.mark.parametrize("name", ["extra.bin", ".hidden", "manifest.json.bak"])
def test_an_extra_file_is_named(bundle: Path, folder: str, name: str) -> None:
    (bundle / folder / name).write_bytes(b"")
    with pytest.raises(BundleError, match="not in the manifest") as found:
        verify(bundle)
    assert (Path(folder) / name).as_posix() in str(found.value)


@pytest.mark.parametrize("key", NAMES)
def test_a_file_in_the_place_of_another_is_named(bundle: Path, key: str) -> None:
    other = next(name for name in NAMES if (bundle / name).read_bytes() != (bundle / key).read_bytes())
    shutil.copyfile(bundle / other, bundle / key)
    with pytest.raises(RecpruneError) as found:
        verify(bundle)
    assert key in str(found.value)


def test_every_key_of_the_manifest_is_held_by_its_checksum(bundle: Path) -> None:
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    for key in values:
        path.write_text(json.dumps({name: value for name, value in values.items() if name != key}))
        with pytest.raises(BundleError, match=r"manifest\.json|format version"):
            verify(bundle)
    for key, value in {"name": "other", "license": "MIT", "opset": 21, "created": "2027-01-02T03:04:05Z"}.items():
        path.write_text(json.dumps(values | {key: value}))
        with pytest.raises(BundleError, match=r"manifest\.json was changed"):
            verify(bundle)


def test_a_signature_that_the_samples_do_not_fit_is_found(bundle: Path) -> None:
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    values["signature"]["inputs"][2]["shape"] = ["batch", 3]
    path.write_text(json.dumps(values | {"checksum": values_checksum(values)}))
    with pytest.raises(BundleError, match=r"'numeric' in samples/inputs\.npz"):
        verify(bundle)
