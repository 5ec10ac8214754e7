"""The site loads nothing from other hosts: the build fails where a page or a style sheet would."""

import re
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

LOADED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "link": "href",
}  # fmt: skip
NOT_LOADED = {"canonical", "index", "search", "next", "prev", "author"}  # relations of <link>
OTHER_HOST = re.compile(r"\s*(https?:)?//")
STYLE_URL = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)")


class ForeignFile(SphinxError):
    """A file of the site loads one of another host."""

    category = "The site must load its own files alone"


class LoadedFiles(HTMLParser):
    """Collects the addresses on other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(LOADED.get(tag, ""))
        if address and OTHER_HOST.match(address) and values.get("rel") not in NOT_LOADED:
            self.addresses.append(address)
        self.addresses += STYLE_URL.findall(values.get("style") or "")


def find_foreign_files(folder: Path) -> list[str]:
    """Return a line for each address on another host that a file of the site loads.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.html").write_text('<a href="https://b.org">b</a><script src="//c.org/d.js"></script>')
    ...     find_foreign_files(Path(folder))
    ['a.html loads //c.org/d.js']
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".html":
            reader = LoadedFiles()
            reader.feed(path.read_text(encoding="utf-8"))
            addresses = reader.addresses
        elif path.suffix == ".css":
            addresses = STYLE_URL.findall(path.read_text(encoding="utf-8"))
        else:
            continue
        found += [f"{path.relative_to(folder)} loads {address}" for address in addresses]
    return found


def check_site(app: Sphinx, error: Exception | None) -> None:
    """Raise `ForeignFile` where the site is not complete in itself."""
    if error is None and (found := find_foreign_files(Path(app.outdir))):
        raise ForeignFile("\n".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the check."""
    app.connect("build-finished", check_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
