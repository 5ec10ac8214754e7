import os
from collections.abc import Callable
from pathlib import Path

import pytest

from recprune_export.bundle import HardLink, check_target, verify, write_bundle
from recprune_export.bundle import write as module
from recprune_export.errors import BundleError, UsageError
from tests.bundle.samples import files, manifest, write


def test_a_bundle_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_bundle(target, {**files(), "old.txt": b"old"}, manifest())
    write_bundle(target, {**files(), "new.txt": b"new"}, manifest())
    assert not (target / "old.txt").exists()
    assert verify(target).files == 4
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
@pytest.mark.parametrize("step", ["_write", "_sync", "_swap"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], step: str, existing: bool
) -> None:
    target = tmp_path / "deep" / "bundle"
    if existing:
        write(target)
    before = {p.relative_to(tmp_path): p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    calls = 0

    def fails(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (2 if step == "_write" else 1):
            raise error("stop")
        return honest(*arguments)

    honest: Callable[..., object] = getattr(module, step)
    monkeypatch.setattr(module, step, fails)
    with pytest.raises(UsageError if error is OSError else error):
        write(target)
    monkeypatch.undo()
    assert {p.relative_to(tmp_path): p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    if existing:
        verify(target)
    else:
        assert not list(tmp_path.iterdir())


def test_without_an_exchange_of_names_it_works_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_exchange", lambda first, second: False)
    write(tmp_path / "bundle")
    verify(write(tmp_path / "bundle"))
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    for content in ("thesis.tex", "manifest.json"):
        (tmp_path / content).mkdir()
        (tmp_path / content / content).write_text("{}")
        with pytest.raises(UsageError, match="is not a bundle"):
            check_target(tmp_path / content)
    bundle = write(tmp_path / "bundle")
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"contains 'notes\.txt'"):
        write(bundle)
    assert (bundle / "notes.txt").read_text() == "mine"


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    verify(write(tmp_path / "bundle"))


def test_a_place_that_cannot_be_written_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "bundle"):
        with pytest.raises(UsageError):
            check_target(target)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        check_target(tmp_path / "bundle")


def test_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not allowed"):
        write_bundle(tmp_path / "bundle", {**files(), "../outside": b""}, manifest())
    assert not list(tmp_path.iterdir())


def test_figures_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_bundle(tmp_path / "bundle", files(), manifest(metrics={"dense": {"auc": float("nan")}, "pruned": {}}))
    assert not list(tmp_path.iterdir())


def test_a_second_name_is_a_link_and_a_copy_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = {**files(), "triton/m/1/model.onnx": HardLink("model.onnx")}
    linked = write_bundle(tmp_path / "linked", second, manifest())
    assert (linked / "triton/m/1/model.onnx").samefile(linked / "model.onnx")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    copied = write_bundle(tmp_path / "copied", second, manifest())
    assert not (copied / "triton/m/1/model.onnx").samefile(copied / "model.onnx")
    assert verify(linked).files == verify(copied).files == 4
    with (linked / "model.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"changed 'model\.onnx', 'triton/m/1/model\.onnx'"):
        verify(linked)
