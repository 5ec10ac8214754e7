"""A signature holds for one manifest and one key, can be checked by others, and is asked for where a key is given."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from recprune_export.bundle import open_bundle_path, pack, read_private_key, sign_bundle, verify, write_bundle
from recprune_export.bundle.archive import SIGNATURE_BYTES, check_signature
from recprune_export.cli import main
from recprune_export.errors import BundleError, UsageError
from tests.bundle import samples
from tests.bundle.complete import write

SIGNATURE = "manifest.json.sig"


def key_pair(folder: Path, name: str, kind: str = "ed25519", password: bytes | None = None) -> tuple[Path, Path]:
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    hidden = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, pkcs8, hidden))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path, "ours")


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    bundle = write(tmp_path / "bundle")
    sign_bundle(bundle, read_private_key(keys[0]))
    return bundle


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_signature_of_the_key_is_valid(signed: Path, keys: tuple[Path, Path]) -> None:
    assert verify(signed, keys[1]).signature == "valid"
    assert verify(signed).signature == "unchecked"
    assert (signed / SIGNATURE).stat().st_size == SIGNATURE_BYTES


def test_another_key_and_another_manifest_are_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = key_pair(tmp_path, "theirs")
    with pytest.raises(BundleError, match="not the signature of manifest"):
        verify(signed, other)
    # A manifest that holds in itself, but is not the one that was signed
    replaced = write_bundle(tmp_path / "replaced", samples.files(), samples.manifest())
    shutil.copyfile(signed / SIGNATURE, replaced / SIGNATURE)
    assert verify(replaced).signature == "unchecked"
    with pytest.raises(BundleError, match="not the signature of manifest"):
        verify(replaced, keys[1])


@pytest.mark.parametrize("name", [SIGNATURE, "manifest.json"])
def test_any_flipped_bit_of_signature_or_manifest_is_found(signed: Path, keys: tuple[Path, Path], name: str) -> None:
    original = (signed / name).read_bytes()
    for position in range(0, len(original), max(1, len(original) // 64)):
        content = bytearray(original)
        content[position] ^= 1 << (position % 8)
        (signed / name).write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest\.json\.sig"):
            check_signature(signed, keys[1])


@pytest.mark.parametrize("content", [b"", b"x" * 63, b"x" * 65])
def test_a_signature_of_another_length_is_found_without_a_key(signed: Path, content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json\.sig"):
        verify(signed)


def test_an_unsigned_bundle_is_refused_where_a_key_is_given(keys: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    assert verify(bundle).signature == "absent"
    with pytest.raises(BundleError, match="is not signed"):
        verify(bundle, keys[1])
    done = invoke("verify", bundle, "--public-key", keys[1])
    assert (done.exit_code, "is not signed" in done.output) == (3, True)


def test_a_changed_bundle_is_not_signed(keys: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    (bundle / "README.md").write_text("other")
    with pytest.raises(BundleError, match=r"README\.md"):
        sign_bundle(bundle, read_private_key(keys[0]))
    assert not (bundle / SIGNATURE).exists()


def test_a_signed_bundle_is_replaced_packed_and_opened(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    with open_bundle_path(pack(signed, tmp_path / "b.tar.zst")) as folder:
        assert verify(folder, keys[1]).signature == "valid"
    again = write_bundle(signed, samples.files(), samples.manifest(), read_private_key(keys[0]))
    assert verify(again, keys[1]).name == "double"
    write_bundle(signed, samples.files(), samples.manifest())
    assert verify(signed).signature == "absent"


def test_a_file_that_is_no_packed_bundle_is_not_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    (tmp_path / "rows.csv").write_text("a,b")
    with pytest.raises(BundleError, match="nor a packed bundle"):
        sign_bundle(tmp_path / "rows.csv", read_private_key(keys[0]))


def test_what_is_no_key_is_refused_in_one_sentence(signed: Path, tmp_path: Path) -> None:
    curve, curve_public = key_pair(tmp_path, "curve", kind="ec")
    hidden, _ = key_pair(tmp_path, "hidden", password=b"secret")
    (tmp_path / "text.pem").write_text("no key")
    for path, said in (
        (curve, "not an Ed25519 key"), (hidden, "password"), (tmp_path / "text.pem", "not a private key"),
        (tmp_path / "absent.pem", "cannot be read"), (curve_public, "not a private key"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            read_private_key(path)
    for path, said in ((curve_public, "not an Ed25519 key"), (tmp_path / "text.pem", "not a public key")):
        with pytest.raises(UsageError, match=said):
            verify(signed, path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_checks_the_signature(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> int:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, check=False).returncode

    assert openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem") == 0
    assert openssl("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem") == 0
    write(tmp_path / "bundle")
    assert invoke("sign", tmp_path / "bundle", "--private-key", tmp_path / "key.pem").exit_code == 0
    assert (
        "The signature matches the given key"
        in invoke("verify", tmp_path / "bundle", "--public-key", tmp_path / "public.pem").output
    )
    check = [
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "public.pem",
        "-rawin",
        "-in",
        "bundle/manifest.json",
        "-sigfile",
    ]
    assert openssl(*check, f"bundle/{SIGNATURE}") == 0
    (tmp_path / "bundle/manifest.json").write_text("{}")
    assert openssl(*check, f"bundle/{SIGNATURE}") != 0


def test_without_the_package_it_is_said_how_to_get_it(signed: Path, keys: tuple[Path, Path]) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"from recprune_export.cli import main; main(['verify', {str(signed)!r}, *sys.argv[1:]])"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (plain.returncode, "give --public-key" in plain.stdout) == (0, True)
    asked = [sys.executable, "-c", code, "--public-key", str(keys[1])]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, "recprune-export[sign]" in done.stderr) == (2, True), done.stderr


def test_a_bundle_is_signed_before_or_after_it_is_packed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    bundle = write(tmp_path / "bundle")
    packed_first = tmp_path / "packed-first.tar.zst"
    assert invoke("pack", bundle, "-o", packed_first).exit_code == 0
    unsigned = packed_first.read_bytes()
    done = invoke("sign", packed_first, "--private-key", keys[0])
    assert (done.exit_code, done.stdout) == (0, f"Wrote {packed_first}.\n"), done.output
    assert packed_first.read_bytes() != unsigned
    assert invoke("sign", bundle, "--private-key", keys[0]).exit_code == 0
    signed_first = tmp_path / "signed-first.tar.zst"
    assert invoke("pack", bundle, "-o", signed_first).exit_code == 0
    assert packed_first.read_bytes() == signed_first.read_bytes()
    for path in (bundle, packed_first, signed_first):
        done = invoke("verify", path, "--public-key", keys[1])
        assert done.exit_code == 0, done.output
        assert "The signature matches the given key" in done.stdout
    _, other = key_pair(tmp_path, "theirs")
    assert invoke("verify", packed_first, "--public-key", other).exit_code == 3


def test_an_archive_that_cannot_be_signed_stays_as_it_is(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    damaged = tmp_path / "damaged.tar.zst"
    damaged.write_bytes(pack(write(tmp_path / "bundle")).read_bytes()[:-50])
    before = damaged.read_bytes()
    done = invoke("sign", damaged, "--private-key", keys[0])
    assert done.exit_code == 3
    assert str(damaged) in done.stderr
    assert damaged.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= {"damaged.tar.zst"}
    assert not list(tmp_path.glob(".damaged*"))
