"""Safe reading of untrusted `.npz` files: plain arrays of limited size, without unpickling."""

import zipfile
from pathlib import Path

import numpy as np

from recprune_export.error_text import first_line
from recprune_export.errors import DataError

MAX_EXAMPLE_BYTES = 1 << 30  # an example request has a few kilobytes


def read_npz(path: Path, max_bytes: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays by name; if given, at most `max_bytes` bytes are unpacked.

    Raises `DataError` if the file is missing, damaged, holds pickled objects, one array without a name, or more than `max_bytes`.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file: give an .npz file.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path} contains one array without a name: save with numpy.savez(path, name=array, ...)."
                )
            _check_size(path, max_bytes)
            arrays = {name: archive[name] for name in archive.files}
            invalid = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
            if invalid is not None:
                raise DataError(
                    f"{path} contains '{invalid}', which is not a NumPy array: give an .npz that contains only arrays."
                )
            return arrays
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except Exception as error:  # zipfile, zlib and numpy raise many unrelated classes for a file of another kind
        raise DataError(
            f"{path} cannot be read as plain NumPy arrays (pickled objects are not accepted): {first_line(error)}"
        ) from error


def _check_size(path: Path, most: int | None) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if most is not None and unpacked > most:
        raise DataError(f"{path} is refused: it unpacks to {unpacked:,} bytes, more than the limit of {most:,} bytes.")
