"""Text for terminals and logs: characters that control a terminal or reorder a line are replaced by escapes. Names of tensors, files and
columns come from untrusted files.

In GitHub Actions a line of a log may also be a command (`workflow_commands.py`).
"""

import re
import unicodedata

from recprune_export.workflow_commands import neutralize_commands, writes_github_log

# The joiners are part of words in Persian and Indic scripts, and of emoji.
_JOINERS = "\u200c\u200d"
# Controls of the terminal (Cc), of the direction of text and other invisible ones (Cf), and separators of lines (Zl, Zp).
_STEERING = {"Cc", "Cf", "Zl", "Zp"}
_PLAIN = re.compile("[ -~\n\t]*")


def escape_for_terminal(text: str) -> str:
    r"""Return printable `text`: characters that control a terminal are escaped, and in GitHub Actions no line is a command.

    >>> escape_for_terminal("a\x1b[2Jb"), escape_for_terminal("größe\n漢")
    ('a\\x1b[2Jb', 'größe\n漢')
    """
    text = escape_controls(text)
    return neutralize_commands(text) if writes_github_log() else text


def escape_controls(text: str) -> str:
    r"""Return `text` with every character that controls a terminal or reorders a line as an escape; line breaks and tabs are kept.

    >>> escape_controls("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_escape(character) if _steers(character) else character for character in text)


def escape_line(text: str) -> str:
    r"""Return `text` as one line for any destination: line breaks and tabs are also escaped.

    >>> escape_line("user\nVerdict: holds")
    'user\\nVerdict: holds'
    """
    return escape_controls(text.replace("\n", r"\n").replace("\t", r"\t"))


def _steers(character: str) -> bool:
    return unicodedata.category(character) in _STEERING and character not in "\n\t" + _JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
