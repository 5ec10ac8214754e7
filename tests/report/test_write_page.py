from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export.bundle import check_files, read_manifest, write_bundle
from recprune_export.cli import main
from recprune_export.errors import UsageError
from recprune_export.report import write_page
from tests.bundle.samples import files
from tests.report.properties import check_page
from tests.report.samples import full


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "ctr", files(), full())


def test_the_command_writes_a_page_beside_the_bundle_and_leaves_the_bundle(bundle: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(bundle)])
    assert done.exit_code == 0, done.output
    check_page((bundle.parent / "ctr.report.html").read_text())
    assert str(bundle.parent / "ctr.report.html") in done.output
    check_files(bundle, read_manifest(bundle))
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["ctr", "ctr.report.html"]


def test_the_page_is_opened_where_it_was_written(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    done = CliRunner().invoke(main, ["report", str(bundle), "-o", str(tmp_path / "new" / "page.html"), "--open"])
    assert opened == [(tmp_path / "new" / "page.html").as_uri()]
    assert "No browser" in done.output


def test_a_page_does_not_go_into_a_bundle(bundle: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(bundle), "-o", str(bundle / "page.html")])
    assert done.exit_code == 2
    assert "whose files are verified" in done.output
    check_files(bundle, read_manifest(bundle))


@pytest.mark.parametrize(("arguments", "code"), [(["report", "none"], 3), (["report"], 2)])
def test_what_is_no_bundle_is_said(arguments: list[str], code: int) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == code


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="cannot be written"):
        write_page("page", tmp_path / "file" / "page.html", ())
    with pytest.raises(UsageError, match="cannot be written"):
        write_page("page", tmp_path, ())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
