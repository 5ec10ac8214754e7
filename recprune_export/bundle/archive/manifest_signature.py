"""A detached Ed25519 signature over `manifest.json`, which holds the checksums of all other files.

The signature is the 64 bytes of RFC 8032, so OpenSSL can check it:

    openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem
    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.json.sig
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recprune_export.bundle.manifest.manifest import MANIFEST, SIGNATURE, read_manifest_bytes
from recprune_export.errors import BundleError, UsageError
from recprune_export.installation import install_command

SIGNATURE_BYTES = 64
_KEY_LIMIT = 1 << 16  # bytes; a key has a few hundred

Signer = Callable[[bytes], bytes]


class NoCryptography(UsageError):
    """The package cryptography is not installed."""


def read_private_key(path: Path) -> Signer:
    """Read an Ed25519 key in PEM and return a function that signs bytes with it.

    Raises `UsageError` for any other file, and `NoCryptography`.
    """
    serialization, ed25519 = _cryptography()
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise UsageError(
            f"{path} is protected by a password: give a key without a password, for example from a secret store."
        ) from error
    except Exception as error:  # the package raises several unrelated classes
        raise UsageError(f"{path} is not a private key in PEM format ({type(error).__name__}).") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key: create one with openssl genpkey -algorithm ed25519.")
    return key.sign


def check_signature(bundle: Path, public_key: Path) -> None:
    """Check that the manifest of a bundle was signed with the key.

    Raises `BundleError` if the signature is missing or was made with another key, `UsageError` for a file that is not a
    public key, and `NoCryptography`.
    """
    serialization, ed25519 = _cryptography()
    content = _read(public_key)
    try:
        key = serialization.load_pem_public_key(content)
    except Exception as error:  # the package raises several unrelated classes
        raise UsageError(f"{public_key} is not a public key in PEM format ({type(error).__name__}).") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError(f"{public_key} is not an Ed25519 key, as signatures of bundles require.")
    path = bundle / SIGNATURE
    if not path.is_file():
        raise BundleError(f"{bundle} is not signed: it has no {SIGNATURE}.")
    try:
        key.verify(path.read_bytes(), read_manifest_bytes(bundle / MANIFEST))
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{bundle} has no readable {MANIFEST}, so it is not a bundle.") from error
    except Exception as error:  # InvalidSignature, which has no message
        raise BundleError(
            f"{SIGNATURE} of {bundle} is not the signature of {MANIFEST} by the key {public_key}: one of these three files was changed."
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_LIMIT)
    except OSError as error:
        raise UsageError(f"The key {path} cannot be read: {error.strerror}.") from error


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise NoCryptography(f"Signatures require cryptography: {install_command('cryptography')}.") from error
    return serialization, ed25519
