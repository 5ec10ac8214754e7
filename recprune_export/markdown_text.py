"""Escape untrusted text for Markdown of GitHub and GitLab: it creates no link, image, HTML, formula or mention, and ends no table
cell."""

import re

from recprune_export.terminal_text import escape_line

# Active in every position; then brackets of a link or of its definition, underscores at the edge of a word, entities.
_PUNCTUATION = re.compile(r"[\\`*<|~$]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#\w]+;)")
# Text that a renderer turns into a link or a mention, even after a backslash.
_LINKED = re.compile(r"://|www\.|mailto:|xmpp:|@|#\d", re.IGNORECASE)
# Begins a heading, a list, a quotation or an underline.
_BLOCK = re.compile(r"(\d{0,9})([#+\-=.)](?=[#\-= ]*(?: |$))|>)")
_BACKTICKS = re.compile("`+")


def code_span(text: str) -> str:
    r"""Return text as a code span, for names; also valid in a table cell.

    >>> code_span("user"), code_span("a`b"), code_span("a|b")
    ('`user`', '``a`b``', '`a\\x7cb`')
    """
    line = escape_line(text).replace("|", r"\x7c") or " "
    runs = {len(run) for run in _BACKTICKS.findall(line)}
    fence = "`" * next(length for length in range(1, len(line) + 2) if length not in runs)
    padded = line[0] in "` " or line[-1] in "` "
    return f"{fence} {line} {fence}" if padded and line.strip() else f"{fence}{line}{fence}"


def escape_markdown(text: str) -> str:
    r"""Return text as a part of a paragraph or a table cell; words that would become links are code spans.

    The following text must not begin with a parenthesis, a bracket or a colon.

    >>> escape_markdown("user_id | <b> ![x](y)"), escape_markdown("see https://example.org now")
    ('user_id \\| \\<b> ![x\\](y)', 'see `https://example.org` now')
    """
    words = escape_line(text).split(" ")
    escaped = [code_span(word) if _LINKED.search(word) else _PUNCTUATION.sub(r"\\\g<0>", word) for word in words]
    joined = " ".join(escaped).strip()
    return _BLOCK.sub(r"\1\\\2", joined, count=1) if _BLOCK.match(joined) else joined
