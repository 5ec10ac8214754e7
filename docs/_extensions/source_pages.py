"""Links from a page to a file of the repository outside docs/ become links to a page that shows the file.

On GitHub the same links lead to the files themselves. A folder becomes a page that lists its files. README.md and
CONTRIBUTING.md of the repository have pages of their own in the same way.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.osutil import relative_uri

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDER = "source"  # of the site
MOST_BYTES = 200_000


class LinkToSourcePages(SphinxPostTransform):
    """Before MyST looks for the target of a link, so that it reports what is left."""

    default_priority = 2

    def run(self, **options: Any) -> None:
        page = DOCS / self.env.docname
        for node in [*self.document.findall(download_reference), *self.document.findall(pending_xref)]:
            target = (page.parent / node.get("reftarget", "").partition("#")[0]).resolve()
            if not target.exists() or not target.is_relative_to(ROOT):
                continue
            if target.is_relative_to(DOCS) and (target.suffix in (".md", ".ipynb") or target == page.parent):
                continue
            path = target.relative_to(ROOT).as_posix()
            linked = [path, *(p.relative_to(ROOT).as_posix() for p in list_files(target))]
            self.env.metadata[self.env.docname].setdefault("source_pages", []).extend(linked)
            uri = relative_uri(self.app.builder.get_target_uri(self.env.docname), get_page_name(path) + ".html")
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def get_page_name(path: str) -> str:
    """Return the name of the page of a file or folder.

    >>> get_page_name("benchmarks/quality.py")
    'source/benchmarks/quality.py'
    """
    return str(PurePosixPath(FOLDER) / path)


def list_files(folder: Path) -> list[Path]:
    """Return the files of a folder, without those below it; none for a file."""
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def render_source(target: Path) -> str:
    """Return a file, or the list of the files of a folder, as HTML."""
    if target.is_dir():
        entries = (
            f'<li><a href="{escape(f"{target.name}/{p.name}.html")}">{escape(p.name)}</a></li>'
            for p in list_files(target)
        )
        return f"<ul>{''.join(entries)}</ul>"
    if target.stat().st_size > MOST_BYTES:
        raise ValueError(f"{target} is too large for a page of the site.")
    text = target.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(target.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter(cssclass="highlight"))


def make_source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the pages of all files and folders that pages link to."""
    paths = {path for values in app.env.metadata.values() for path in values.get("source_pages", ())}
    for path in sorted(paths):
        body = f"<h1><code>{escape(path)}</code></h1>{render_source(ROOT / path)}"
        yield get_page_name(path), {"title": path, "body": body, "parents": [], "toc": ""}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform and the pages."""
    app.add_post_transform(LinkToSourcePages)
    app.connect("html-collect-pages", make_source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
