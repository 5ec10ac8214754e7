"""Pack a bundle as one reproducible `.tar.zst`: the same files give the same bytes."""

import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from recprune_export.bundle._verify import check_files, read_manifest
from recprune_export.bundle.manifest.manifest import MANIFEST, SIGNATURE
from recprune_export.bundle.servers.triton import make_model_name
from recprune_export.errors import UsageError
from recprune_export.installation import install_command
from recprune_export.output_files import check_output_file, make_sibling_path

SUFFIX = ".tar.zst"
# 128 MiB: the default limit of zstd decompressors, and enough for a second copy of a model to cost almost nothing
WINDOW = 27
LEVEL = 10
BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20


class NoZstandard(UsageError):
    """The package zstandard is not installed."""


def zstandard_module() -> Any:
    """Return the module zstandard. Raises `NoZstandard`."""
    try:
        import zstandard
    except ImportError as error:
        raise NoZstandard(f"Packed bundles require zstandard: {install_command('zstandard')}.") from error
    return zstandard


def pack(bundle: Path, output: Path | None = None) -> Path:
    """Write a bundle as one file, `BUNDLE.tar.zst` by default, and return its path. The file is complete or absent.

    The manifest comes first, so that a reader knows the files that follow, then its signature, if any, then files by name;
    without times, owners or modes. All entries are in one folder with the bundle's name.

    Raises `BundleError` if the bundle was changed, `UsageError` if the file cannot be written.
    """
    if bundle.is_file():
        raise UsageError(f"{bundle} is a file: give the directory of a bundle.")
    zstd = zstandard_module()
    output = output or bundle.resolve().with_name(f"{bundle.resolve().name}{SUFFIX}")
    check_output_file(output)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    signature = [SIGNATURE] if (bundle / SIGNATURE).is_file() else []
    partial = make_sibling_path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file, _make_compressor(zstd).stream_writer(file) as tar:
            for name in (MANIFEST, *signature, *sorted(manifest.files)):
                _add(tar, bundle / name, f"{make_model_name(manifest.name)}/{name}")
            tar.write(bytes(2 * BLOCK))
        os.replace(partial, output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or type(error).__name__}.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return output


def count_packed_bytes(files: Sequence[Path]) -> int:
    """Return the number of bytes of `files` in a packed bundle.

    Takes as long as packing them. Memory: a few windows. Raises `NoZstandard`.
    """
    compressor = _make_compressor(zstandard_module()).compressobj()
    size = 0
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _make_compressor(zstd: Any) -> Any:
    parameters = zstd.ZstdCompressionParameters.from_level(
        LEVEL, window_log=WINDOW, enable_ldm=True, write_checksum=True, write_content_size=False, threads=0
    )
    return zstd.ZstdCompressor(compression_params=parameters)


def _add(tar: IO[bytes], path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = path.stat().st_size, 0o644
    try:
        header = info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise UsageError(
            f"'{name}' cannot be packed ({error}): its name or its size exceeds the limits of tar."
        ) from error
    tar.write(header)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            tar.write(chunk)
    tar.write(bytes(-info.size % BLOCK))
