"""`ByteLimit`: a number of bytes, or a fraction of those of the dense model."""

import math
import re
from dataclasses import dataclass

from recprune_export.errors import UsageError

_UNITS = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}


@dataclass(frozen=True)
class ByteLimit:
    """A limit of `bytes`, or of a `fraction` of the bytes of the dense fp32 file; one of them is None."""

    bytes: int | None = None
    fraction: float | None = None

    def resolve(self, dense_bytes: int) -> int:
        """Return the limit in bytes for a dense file of `dense_bytes`.

        >>> ByteLimit(fraction=0.1).resolve(1_205_000)
        120500
        """
        return self.bytes if self.bytes is not None else math.floor(dense_bytes * (self.fraction or 0.0))


def parse_byte_limit(text: str) -> ByteLimit:
    """Parse a size, such as 20MB, 500kB or 16MiB, or a percentage of the dense file.

    Raises `UsageError` for other strings.

    >>> parse_byte_limit("20MB"), parse_byte_limit("10 %")
    (ByteLimit(bytes=20000000, fraction=None), ByteLimit(bytes=None, fraction=0.1))
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%|[kmgKMG]?i?[bB]?)\s*", text)
    number = float(match[1]) if match else 0.0
    unit = match[2].lower() if match else ""
    in_range = 0.0 < number < (100.0 if unit == "%" else math.inf)
    if match is None or not in_range or unit not in (*_UNITS, "%"):
        raise UsageError(
            f"--max-bytes '{text}' is not a size: write for example 20MB, 500kB, or 10% of the dense file."
        )
    return ByteLimit(fraction=number / 100.0) if unit == "%" else ByteLimit(bytes=math.floor(number * _UNITS[unit]))
