"""`Page`: what a page says, in the order in which it is read, and `render_page`, which makes HTML of it.

Strings are escaped when they are put into the page, wherever they come from; only `Markup` is taken as it is, and that is
made by `code_markup` and by the pictures, which escape what they are given.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recprune_export.report.svg import shorten

Cell = str | Markup
LONGEST = 120  # characters of a name
_BREAKS = re.compile("(?<=[./])(?=[^./])")
# No characters, or none that HTML has, or such as turn round the text after them, so that a name reads as another one.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class PageTable:
    """The first cell of each row is its heading. `words` are the positions of columns that hold no figures."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class PageFigure:
    """A picture, what it shows, and the figures in it as a table."""

    picture: Markup
    caption: str
    table: PageTable | None = None


@dataclass(frozen=True)
class Section:
    """`key` is its anchor; `said` are paragraphs before the figures, `code_markup` a program, `after` paragraphs at the end."""

    key: str
    title: str
    said: tuple[Cell, ...] = ()
    figures: tuple[PageFigure, ...] = ()
    tables: tuple[PageTable, ...] = ()
    code: str = ""
    after: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Headline:
    """One of the figures that are read first: `value` and what it is of, then the conditions under which it holds."""

    name: str
    value: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """`verdict` is a word that a style exists for: pass, fail, undecided; or nothing."""

    title: str
    kicker: str
    facts: tuple[Cell, ...]
    sections: tuple[Section, ...]
    headlines: tuple[Headline, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: str = ""
    footer: tuple[Cell, ...] = field(default_factory=tuple)


def render_page(page: Page) -> str:
    """Return the page as HTML."""
    text = _environment().get_template("page.html").render(page=page, style=Markup(read_style_sheet()))
    return _UNREADABLE.sub("\ufffd", text)


def read_style_sheet() -> str:
    """Return the style sheet."""
    return resources.files("recprune_export.report").joinpath("templates/style.css").read_text(encoding="utf-8")


def code_markup(text: object) -> Markup:
    """Return a name or a line of code as HTML, which may be broken after dots and slashes.

    >>> code_markup("<user>.weight")
    Markup('<code>&lt;user&gt;.<wbr>weight</code>')
    """
    parts = _BREAKS.split(str(text))
    return Markup("<code>{}</code>").format(Markup("<wbr>").join(parts))


def name_markup(name: str) -> Markup:
    """Return a name that came from a model as HTML; of a very long one its end.

    >>> name_markup("x" * 200) == code_markup("…" + "x" * 119)
    True
    """
    return code_markup(shorten(name, LONGEST))


def verdict_markup(verdict: str, sign: str) -> Markup:
    """Return a verdict in its colour; the word and the sign say the same without it.

    >>> verdict_markup("pass", "✓")
    Markup('<span class="is-pass">✓ pass</span>')
    """
    return Markup('<span class="is-{}">{} {}</span>').format(verdict, sign, verdict)


def list_markup(names: tuple[str, ...], most: int) -> Markup:
    """Return names as HTML, the first `most` of them.

    >>> list_markup(("a", "b", "c"), 2)
    Markup('<code>a</code>, <code>b</code> and 1 more')
    """
    shown = Markup(", ").join(name_markup(name) for name in names[:most])
    return shown if len(names) <= most else shown + f" and {len(names) - most:,} more"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("recprune_export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
