"""Add a signature to an existing bundle."""

import os
from pathlib import Path

from recprune_export.bundle._verify import check_files, read_manifest
from recprune_export.bundle.archive.manifest_signature import Signer
from recprune_export.bundle.archive.packing import pack
from recprune_export.bundle.archive.unpacking import is_packed, open_bundle_path
from recprune_export.bundle.lock import hold_write_lock
from recprune_export.bundle.manifest.manifest import MANIFEST, SIGNATURE
from recprune_export.errors import UsageError
from recprune_export.output_files import make_sibling_path


def sign_bundle(bundle: Path, sign: Signer) -> Path:
    """Sign the manifest of an unchanged bundle, and return the path of the written file.

    This is `manifest.json.sig` in a directory, or the packed bundle itself, whose bytes are those of the packed signed
    directory. Raises `BundleError` if the bundle was changed, `UsageError` if the signature cannot be written.
    """
    if not is_packed(bundle):
        return _sign_directory(bundle, sign)
    with hold_write_lock(bundle.resolve()), open_bundle_path(bundle) as folder:
        _sign_directory(folder, sign)
        return pack(folder, bundle)


def _sign_directory(bundle: Path, sign: Signer) -> Path:
    path = bundle / SIGNATURE
    partial = make_sibling_path(bundle.resolve())
    try:
        with hold_write_lock(bundle.resolve()):  # other processes must not replace the manifest while it is signed
            check_files(bundle, read_manifest(bundle))
            partial.write_bytes(sign((bundle / MANIFEST).read_bytes()))
            os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
