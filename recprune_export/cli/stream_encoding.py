"""Streams that can print any text: characters missing in the encoding of a terminal or log are replaced by ASCII."""

import codecs
import contextlib
import os
import sys
import unicodedata

ERROR_HANDLER = "recprune_export_ascii"
ASCII_CODEC = "recprune_export_ascii_stream"
# Spellings of characters that Unicode does not decompose to ASCII.
SPELLINGS = {
    "×": "x", "·": "*", "→": "->", "–": "-", "—": "-", "−": "-", "…": "...", "µ": "u", "±": "+-", "≤": "<=", "≥": ">=",
    "≈": "~", "•": "*", "✓": "ok", "✅": "[pass]", "❌": "[fail]", "❔": "[undecided]", "⏭": "[skipped]", "\ufe0f": "",
    "─": "-", "━": "-", "│": "|", "▁": "_", "▂": "_", "▃": ".", "▄": "-", "▅": "=", "▆": "+", "▇": "*", "█": "#",
    "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def spell_in_ascii(text: str) -> str:
    """Return `text` in ASCII: accents are removed, and characters without an ASCII form become question marks.

    >>> spell_in_ascii("1.50× faster → größe, 0.2 µs, 漢")
    '1.50x faster -> grosse, 0.2 us, ?'
    """
    return "".join(_spell(character) for character in text)


def make_streams_printable() -> None:
    """Make stdout and stderr replace characters that they cannot encode, instead of raising an error.

    `click.echo` writes UTF-8 to a stream whose encoding is called ASCII; such a stream therefore gets a codec of another name.
    """
    codecs.register_error(ERROR_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            reconfigure(encoding=ASCII_CODEC if is_ascii else stream.encoding, errors=ERROR_HANDLER)


def discard_output() -> None:
    """Redirect stdout to the null device: the interpreter flushes the remaining buffer at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _spell(character: str) -> str:
    if character.isascii():
        return character
    if character in SPELLINGS:
        return SPELLINGS[character]
    decomposed = unicodedata.normalize("NFKD", {"ß": "ss"}.get(character, character))
    letters = "".join(c for c in decomposed if not unicodedata.combining(c))
    return letters if letters.isascii() else "?"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return spell_in_ascii(error.object[error.start : error.end]), error.end


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != ASCII_CODEC:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_codec.encode,
        ascii_codec.decode,
        ascii_codec.streamreader,
        ascii_codec.streamwriter,
        ascii_codec.incrementalencoder,
        ascii_codec.incrementaldecoder,
        name=ASCII_CODEC,
    )


codecs.register(_find_codec)
