"""`report` on one bundle and on two."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recprune_export.bundle import pack, write_bundle
from recprune_export.cli import main
from tests.bundle import samples as bundles
from tests.report import samples
from tests.report.properties import check_page


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles of one model, on machines of different names."""
    files = bundles.files()
    settings = {**samples.full().settings, "sparsity": 0.9}
    there = {**samples.full().environment, "cores": 64}
    return (
        write_bundle(tmp_path / "a", files, samples.full()),
        write_bundle(tmp_path / "b", files, samples.full(settings=settings, environment=there)),
    )


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_two_bundles_give_a_page_and_a_short_table(pair: tuple[Path, Path]) -> None:
    done = report(*pair)
    assert done.exit_code == 0, done.output
    page = pair[0].with_name("a-and-b.report.html")
    check_page(page.read_text(encoding="utf-8"))
    lines = done.output.splitlines()
    assert any(line.split() == ["model.onnx", "191", "kB", "191", "kB"] for line in lines)
    assert "Options that differ: sparsity." in lines
    assert "Latency cannot be compared: cores 2 and 64." in lines
    assert lines[-1] == f"Report: {page}"
    assert len(lines) < 20


def test_two_bundles_as_json(pair: tuple[Path, Path]) -> None:
    found = json.loads(report(*pair, "--json").stdout)
    assert found["a"]["bytes"] == found["b"]["bytes"] == 191_322
    assert set(found["a"]["speedup"]) == {"estimate", "low", "high"}
    assert (found["batch"], found["have_same_rows"]) == (256, True)
    assert Path(found["output"]).is_file()


def test_a_packed_bundle_is_read_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    packed = pack(pair[1], tmp_path / "b.tar.zst")
    done = report(pair[0], packed, "-o", tmp_path / "page.html")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (("a", "missing"), 3, "does not exist"),
        (("a", "a/model.onnx"), 3, "model.onnx"),
        (("a", "b", "-o", "b/page.html"), 2, "is inside the bundle"),
        (("a", "b", "--sweep", "."), 2, "--sweep belongs to the page of one bundle"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(pair[0].parent)
    done = report(*names)
    assert done.exit_code == code, done.output
    assert words in done.output
    assert "Traceback" not in done.output
