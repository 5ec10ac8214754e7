"""Each relative link of the documentation leads to a file, and each anchor to a heading of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (
        ROOT,
        ROOT / "docs",
        ROOT / "docs/decisions",
        ROOT / "docs/extending",
        ROOT / "docs/how-to",
        ROOT / "docs/reference",
        ROOT / "docs/tutorials",
        ROOT / "examples",
        ROOT / "runtime",
    )
    for path in folder.glob("*.md")
)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def make_anchor(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        headings = HEADING.findall(target.read_text(encoding="utf-8")) if anchor and target.is_file() else []
        if not target.exists() or (anchor and anchor not in map(make_anchor, headings)):
            broken.append(link)
    assert not broken
