"""The code on the pages for those who add something runs."""

import re
from pathlib import Path

import pytest

from recprune_export.channels import analysis, walk

PAGES = sorted((Path(__file__).parents[2] / "docs" / "extending").glob("*.md"))
PACKAGE = Path(walk.__file__).parents[1]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "README.md"], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert analysis.analyze  # which has registered all rules
    monkeypatch.setattr(walk, "RULES", dict(walk.RULES))  # what a page adds is gone afterwards
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    assert "assert " in blocks[-1]
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:recprune_export/)?\w+(?:/\w+)*(?:\.py|/))`", text))
    assert paths
    known = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py")}
    for path in paths - {"tests/docs/test_extending.py"}:
        inside = path.removeprefix("recprune_export/")
        if path.endswith("/"):
            assert (PACKAGE / inside).is_dir(), path
        else:
            assert any(name == inside or name.endswith(f"/{inside}") for name in known), path
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (page.parent / link).exists(), link
