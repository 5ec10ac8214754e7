"""The format of a CSV file: compression, encoding and separator, detected from its content unless they are given."""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

from recprune_export.data.other_formats import describe_json
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.error_text import first_line
from recprune_export.errors import DataError, UsageError
from recprune_export.installation import install_command

SEPARATORS = (",", "\t", ";", "|")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_JSON_LINES, _JSON = re.compile(r"\s*\{\s*(?:\"|\}|$)"), re.compile(r"\s*\[\s*(?:[\[{]|$)")
_HEAD_BYTES = 1 << 16
_SAMPLE_LINES = 100
_CHUNK_BYTES = 1 << 20
_MAX_DECODED_BYTES = 1 << 31
FileState = tuple[int, int, int]  # size, time of change and inode


@dataclass(frozen=True)
class CsvOptions:
    """The separator and the encoding of a CSV file, as `--separator` and `--encoding` give them; None: detected.

    Raises `UsageError` for a separator that is not one character, or an encoding that Python does not know.
    """

    separator: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None:
            object.__setattr__(self, "separator", {"\\t": "\t", "tab": "\t"}.get(self.separator, self.separator))
            if len(self.separator.encode()) != 1:
                raise UsageError(
                    f"--separator '{self.separator}' must be one ASCII character such as ';', '|' or '\\t': "
                    "convert files with a longer separator."
                )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise UsageError(f"--encoding '{self.encoding}' is unknown: utf-8, utf-16, latin-1, ...") from error


@dataclass(frozen=True)
class CsvFormat:
    """The separator of a CSV file, its encoding as Python names it, and whether the encoding is a guess."""

    separator: str
    encoding: str
    is_guess: bool = False


def detect_csv_format(path: DataFile, options: CsvOptions) -> CsvFormat:
    """Return how `path` is written. Raises `DataError` if it is JSON or no text, or not in the given encoding."""
    return _detect(path, options, file_state(path))


def read_csv_header(path: DataFile, form: CsvFormat) -> tuple[str, ...]:
    """Return the names in the first line of a CSV file, without quotes; empty if it has none."""
    text = _read_head(path).decode(form.encoding, errors="ignore").removeprefix("\ufeff")
    try:
        return tuple(next((row for row in csv.reader(io.StringIO(text), delimiter=form.separator) if row), ()))
    except csv.Error:
        return ()


def csv_source(path: DataFile, encoding: str) -> DataFile | bytes:
    """Return the input of polars: the path of a UTF-8 file, or the text of another file as UTF-8.

    Raises `DataError` if the text is not in `encoding`, or too large to hold in memory, or a remote file is not UTF-8.
    """
    if isinstance(path, str) and encoding != "utf-8":
        raise DataError(
            f"{path} is {encoding}: only UTF-8 files can be read from an object store: copy it to this machine, or convert it."
        )
    return path if encoding == "utf-8" else _decode(Path(path), encoding, file_state(path))


def is_text_file(head: bytes) -> bool:
    """Return whether the first bytes of a file may begin a CSV file."""
    return head.startswith((_GZIP, _ZSTD)) or b"\0" not in head or _utf16(head) is not None


def file_state(path: DataFile) -> FileState:
    """Return size, modification time and inode of a file, which differ if its content differs; zeros for a remote one."""
    if isinstance(path, str):
        return 0, 0, 0
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=32)
def _detect(path: DataFile, options: CsvOptions, state: FileState) -> CsvFormat:
    head = _read_head(path)
    if isinstance(path, str):
        text = head.decode(errors="ignore")
        _refuse_json(path, text)
        return CsvFormat(options.separator or detect_separator(text), options.encoding or "utf-8")
    encoding, is_guess = options.encoding, False
    if encoding is None:
        encoding = _utf16(head)
    if encoding is None:
        is_guess = not _is_utf8(path)
        encoding = "cp1252" if is_guess else "utf-8"
        if is_guess and _fails(path, encoding):
            encoding = "latin-1"
    if codecs.lookup(encoding).name in ("utf-8", "ascii", "utf-8-sig"):
        encoding = "utf-8"
    text = head.decode(encoding, errors="ignore")
    _refuse_json(path, text)
    return CsvFormat(options.separator or detect_separator(text), encoding, is_guess)


def _refuse_json(path: DataFile, text: str) -> None:
    """Raise `DataError` if a text is JSON, whose first line would be taken for the names of columns."""
    first = text.removeprefix("\ufeff").partition("\n")[0]
    for name, pattern, reader in (("JSON lines", _JSON_LINES, "read_ndjson"), ("JSON", _JSON, "read_json")):
        if pattern.match(first):
            raise DataError(f"{path} is {describe_json(name, reader)}.")


def detect_separator(text: str) -> str:
    """Return the separator with which the lines of `text` have the fields of its first line; a comma if there is none.

    >>> detect_separator("user;item\\nu1;'a,b'\\n"), detect_separator("user,tags\\nu1,x|y\\n")
    (';', ',')
    """
    best, score = ",", (0.0, 0)
    for separator in SEPARATORS:
        try:
            rows = list(islice(csv.reader(io.StringIO(text), delimiter=separator), _SAMPLE_LINES))
        except csv.Error:
            continue
        whole = rows if text.endswith("\n") or len(rows) < 2 else rows[:-1]  # the last row may be cut
        widths = [len(row) for row in whole if row]
        if widths and widths[0] > 1:
            candidate = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
            best, score = max((best, score), (separator, candidate), key=lambda pair: pair[1])
    return best


@contextmanager
def _open_decompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain, gzip or Zstandard file. Raises `DataError` if Zstandard is not installed."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(_GZIP):
        with gzip.open(path) as stream:
            yield stream  # type: ignore[misc]
    elif magic == _ZSTD:
        with _zstandard(path).open(path, "rb") as stream:
            yield stream
    else:
        with path.open("rb") as stream:
            yield stream


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise DataError(
            f"{path} is compressed with Zstandard: {install_command('zstandard')}, or decompress it (zstd -d)."
        ) from error
    return zstandard


def _read_head(path: DataFile) -> bytes:
    if isinstance(path, str):
        return _read_remote_head(path)
    try:
        with _open_decompressed(path) as stream:
            return stream.read(_HEAD_BYTES)
    except (EOFError, OSError) as error:
        raise DataError(f"{path} cannot be decompressed: {error}.") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise DataError(f"{path} cannot be decompressed: {error}.") from error
        raise


def _read_remote_head(url: str) -> bytes:
    """Return the first lines of a remote text, which polars decompresses."""
    import polars as pl

    try:
        lines = pl.scan_lines(url).head(_SAMPLE_LINES).collect().to_series().to_list()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{url} cannot be read: {first_line(error)}") from error
    return "".join(f"{line}\n" for line in lines).encode()


def _utf16(head: bytes) -> str | None:
    """Return the encoding of UTF-16 or UTF-32 text: by its mark, or by zeros in every second byte."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    sample = head[: len(head) // 2 * 2]
    even, odd = sample[::2], sample[1::2]
    if len(even) >= 8 and even.count(0) == 0 and odd.count(0) > 0.9 * len(odd):
        return "utf-16-le"
    return "utf-16-be" if len(even) >= 8 and odd.count(0) == 0 and even.count(0) > 0.9 * len(even) else None


def _is_utf8(path: Path) -> bool:
    return not _fails(path, "utf-8")


def _fails(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with _open_decompressed(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return True
    except (EOFError, OSError) as error:
        raise DataError(f"{path} cannot be decompressed: {error}.") from error
    return False


@lru_cache(maxsize=1)
def _decode(path: Path, encoding: str, state: FileState) -> bytes:
    if state[0] > _MAX_DECODED_BYTES:
        raise DataError(
            f"{path} is {encoding} and {state[0] / 1e9:.1f} GB: convert it to UTF-8 first (iconv -f {encoding} -t utf-8)."
        )
    try:
        with _open_decompressed(path) as stream:
            text = io.TextIOWrapper(stream, encoding=encoding, newline="").read()
    except (UnicodeDecodeError, UnicodeError) as error:
        raise DataError(f"{path} is not in {encoding} ({error}): give its encoding with --encoding.") from error
    return text.removeprefix("\ufeff").encode()
