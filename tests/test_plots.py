import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from recprune_export.errors import UsageError
from recprune_export.plots import draw_losses
from recprune_export.pruning.sensitivity import GroupSensitivity, Sensitivity

SHAPES = (("embeddings.tables.user.weight:1", "embedding", 16), ("mlp.0.weight:0", "hidden", 32), ("one", "hidden", 1))


def found(count: int = 3) -> Sensitivity:
    groups = [SHAPES[number % 3] for number in range(count)]
    return Sensitivity(
        tuple(
            GroupSensitivity(name, kind, width, False, tuple((1 - k / width) ** 2 for k in range(width + 1)), {}, {})
            for name, kind, width in groups
        )
    )


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_file_needs_nothing_else_and_is_the_same_each_time(count: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        draw_losses(found(count), tmp_path / name, "a model")
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    root = ElementTree.fromstring(text)
    links = [value for e in root.iter() for key, value in e.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert not [e for e in root.iter() if e.tag.endswith(("image", "script", "style")) and "http" in (e.text or "")]
    panels = [e for e in root.iter() if e.attrib.get("id", "").startswith("axes_")]
    assert len(panels) == count


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="cannot be written"):
        draw_losses(found(), tmp_path / "nowhere" / "plot.svg", "a model")


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"recprune-export\[plots\]"):
        draw_losses(found(), tmp_path / "plot.svg", "a model")
