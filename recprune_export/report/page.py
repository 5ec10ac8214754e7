"""`Page`, the content of a page in reading order, and `render_page`, which converts it to HTML.

All strings are escaped when they are inserted; only `Markup` is inserted unchanged. It comes from `code_markup` and from
the pictures, which escape their arguments.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recprune_export.report.svg import shorten

Cell = str | Markup
MAX_NAME_LENGTH = 120
PHONE_CHARACTERS = 42  # of a row of a table at 390 px
GAP = 2  # characters between columns
WORDS = 12  # characters to which a column of text shrinks, by the style sheet, including the gap
_CODE = re.compile("`([^`]+)`")
_BREAKS = re.compile("(?<=[./])(?=[^./])")
# Control characters and surrogates, which HTML does not allow, and bidirectional controls, which reorder the following text.
_UNREADABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class PageTable:
    """A table; the first cell of each row is its heading. `words`: indices of columns of text instead of numbers."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: frozenset[int] = frozenset({0})

    @property
    def stacks(self) -> bool:
        """Whether each cell is on a separate line on a phone, because the columns do not fit next to each other.

        >>> PageTable("", ("", "dense", "pruned"), (("AUC", "0.7731", "0.7732"),)).stacks
        False
        >>> PageTable("", ("", "batch 1", "batch 256"), (("dense", "5.83× (5.80–5.86)", "1.41× (1.40–1.41)"),)).stacks
        True
        """
        columns = zip(self.headings, *self.rows, strict=True)
        widths = [
            WORDS if number in self.words else max(len(Markup(cell).striptags()) for cell in column) + GAP
            for number, column in enumerate(columns)
        ]
        return sum(widths) > PHONE_CHARACTERS


@dataclass(frozen=True)
class PageFigure:
    """A picture with a caption and a table of its values."""

    picture: Markup
    caption: str
    table: PageTable | None = None


@dataclass(frozen=True)
class Section:
    """A section; `key`: anchor, `paragraphs`: text before the figures, `code`: a program, `after`: paragraphs at the end.

    `gist`: the content of a collapsed section in a few words; `is_open`: whether it is expanded at first.
    """

    key: str
    title: str
    paragraphs: tuple[Cell, ...] = ()
    figures: tuple[PageFigure, ...] = ()
    tables: tuple[PageTable, ...] = ()
    code: str = ""
    after: tuple[Cell, ...] = ()
    gist: str = ""
    is_open: bool = True


@dataclass(frozen=True)
class Headline:
    """A key figure at the top of the page: `value` of `name`, and `conditions` under which it holds."""

    name: str
    value: str
    conditions: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Content of a page. `verdict`: a style class (pass, fail, undecided) or empty."""

    title: str
    kicker: str
    facts: tuple[Cell, ...]
    sections: tuple[Section, ...]
    headlines: tuple[Headline, ...] = ()
    notes: tuple[Cell, ...] = ()
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
    """Return a name or a line of code as HTML, with optional line breaks after dots and slashes.

    >>> code_markup("<user>.weight")
    Markup('<code>&lt;user&gt;.<wbr>weight</code>')
    """
    fragments = _BREAKS.split(str(text))
    return Markup("<code>{}</code>").format(Markup("<wbr>").join(fragments))


def prose_markup(text: str) -> Markup:
    """Return a sentence as HTML, with text between backticks as code.

    >>> prose_markup("`verify <b>` measures it.")
    Markup('<code>verify &lt;b&gt;</code> measures it.')
    """
    pieces = _CODE.split(text)  # parts at odd positions are code
    return Markup("").join(code_markup(piece) if n % 2 else piece for n, piece in enumerate(pieces))


def name_markup(name: str) -> Markup:
    """Return a name from a model as HTML; a very long name is reduced to its end.

    >>> name_markup("x" * 200) == code_markup("…" + "x" * 119)
    True
    """
    return code_markup(shorten(name, MAX_NAME_LENGTH))


def verdict_markup(verdict: str, sign: str, words: str) -> Markup:
    """Return a verdict in its color; words and sign carry the same information.

    >>> verdict_markup("pass", "✓", "holds")
    Markup('<span class="is-pass">✓ holds</span>')
    """
    return Markup('<span class="is-{}">{} {}</span>').format(verdict, sign, words)


def list_markup(names: tuple[str, ...], most: int) -> Markup:
    """Return the first `most` names as HTML, and the number of the remaining ones.

    >>> list_markup(("a", "b", "c"), 2)
    Markup('<code>a</code>, <code>b</code> and 1 more')
    """
    listing = Markup(", ").join(name_markup(name) for name in names[:most])
    return listing if len(names) <= most else listing + f" and {len(names) - most:,} more"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("recprune_export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
