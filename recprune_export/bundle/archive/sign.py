"""Add a signature to an existing bundle."""

import os
import uuid
from pathlib import Path

from recprune_export.bundle._verify import check_files, read_manifest
from recprune_export.bundle.archive.manifest_signature import Signer
from recprune_export.bundle.lock import hold_write_lock
from recprune_export.bundle.manifest.manifest import MANIFEST, SIGNATURE
from recprune_export.errors import UsageError


def sign_bundle(bundle: Path, sign: Signer) -> Path:
    """Write `manifest.json.sig` into an unchanged bundle and return the path of the signature.

    Raises `BundleError` if the bundle was changed, `UsageError` if the signature cannot be written.
    """
    if bundle.is_file():
        raise UsageError(f"{bundle} is a file: sign the directory of the bundle, then pack it.")
    path = bundle / SIGNATURE
    partial = bundle.with_name(f".{bundle.resolve().name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with hold_write_lock(bundle.resolve()):  # nobody may replace the manifest while it is signed
            check_files(bundle, read_manifest(bundle))
            partial.write_bytes(sign((bundle / MANIFEST).read_bytes()))
            os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
