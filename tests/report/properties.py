"""What holds for every page, whatever it is about."""

import re
from itertools import pairwise

from tests.report.pages import read

LARGEST = 520_000  # bytes
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "h2", "nav", "ul", "li", "main", "div", "strong",
    "span", "aside", "section", "figure", "figcaption", "svg", "desc", "text", "line", "rect", "circle", "polygon", "polyline",
    "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td", "code", "wbr", "pre", "footer",
}  # fmt: skip


def check_page(page: str) -> None:
    """It loads nothing, runs nothing, is small, and can be read with any program that reads pages aloud."""
    assert page.startswith("<!DOCTYPE html>")
    assert len(page.encode()) < LARGEST
    root = read(page)
    _stands_alone(page)
    assert [html.attributes["lang"] for html in root.all("html")] == ["en"]
    (title,) = (child for head in root.all("head") for child in head.all("title"))
    assert title.text.strip()
    levels = [int(heading.tag[1]) for heading in root.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(heading.text.strip() for heading in root.all("h1", "h2"))
    ids = [element.attributes["id"] for element in root.walk() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in root.walk():
        for named in element.attributes.get("aria-labelledby", "").split():
            assert named in ids
    for picture in root.all("svg"):
        assert picture.attributes["role"] == "img"
        (name,), (description,) = picture.all("title"), picture.all("desc")
        assert name.text.strip()
        assert description.text.strip()
        assert picture.attributes["aria-labelledby"].split() == [name.attributes["id"], description.attributes["id"]]
    for table in root.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(cell.attributes["scope"] in ("col", "row") for cell in table.all("th"))
        assert len({len(row.all("th", "td")) for row in table.all("tr")}) == 1
    for region in root.walk():
        if "tabindex" in region.attributes:
            assert region.attributes["aria-label"].strip()


def _stands_alone(page: str) -> None:
    root = read(page)
    assert {element.tag for element in root.walk()} - {""} <= ALLOWED
    for element in root.walk():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"<{element.tag} {name}>"
            assert name not in ("src", "srcset", "data", "action", "style", "background", "poster")
            if name in ("href", "xlink:href"):
                assert value.startswith("#")
                assert any(e.attributes.get("id") == value[1:] for e in root.walk())
    (style,) = root.all("style")
    assert not re.search(r"url\(|@import|expression|</", style.text)
    policy = [meta.attributes["content"] for meta in root.all("meta") if "http-equiv" in meta.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
