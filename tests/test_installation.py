"""Two distributions of one package: which one this is, and what becomes of both in one environment."""

import subprocess
import sys
from pathlib import Path

import pytest

from recprune_export import installation
from recprune_export.installation import RUNTIME, WHOLE, describe_missing_module, find_conflict, install_command


def make_package(folder: Path, *, whole: bool, **versions: str) -> Path:
    """Make the folders that pip would: a package and the metadata of the distributions installed beside it."""
    package = folder / "recprune_export"
    package.mkdir()
    if whole:
        (package / "pipeline").mkdir()
    for name, version in versions.items():
        (folder / f"{name}-{version}.dist-info").mkdir()
    return package


@pytest.mark.parametrize("versions", [{}, {"recprune_export": "0.2.0"}, {"recprune_export_runtime": "0.2.0"}])
@pytest.mark.parametrize("whole", [True, False])
def test_one_distribution_is_no_conflict(tmp_path: Path, versions: dict[str, str], whole: bool) -> None:
    assert find_conflict(make_package(tmp_path, whole=whole, **versions)) is None


def test_both_of_one_version_hold_the_same_files(tmp_path: Path) -> None:
    package = make_package(tmp_path, whole=True, recprune_export="0.2.0", recprune_export_runtime="0.2.0")
    assert find_conflict(package) is None


@pytest.mark.parametrize(
    ("whole", "versions"),
    [
        (True, {"recprune_export": "0.3.0", "recprune_export_runtime": "0.2.0"}),  # files of two releases
        (False, {"recprune_export": "0.2.0", "recprune_export_runtime": "0.2.0"}),  # a checkout hidden by the runtime
    ],
)
def test_files_of_two_releases_and_a_hidden_checkout_are_a_conflict(
    tmp_path: Path, whole: bool, versions: dict[str, str]
) -> None:
    sentence = find_conflict(make_package(tmp_path, whole=whole, **versions))
    assert sentence is not None
    assert f"pip uninstall -y {WHOLE} {RUNTIME}" in sentence
    assert all(version in sentence for version in versions.values())


def test_a_conflict_ends_the_command_and_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    import recprune_export

    monkeypatch.setattr(installation, "find_conflict", lambda: "two releases")
    with pytest.raises(ImportError, match="two releases"):
        recprune_export.verify  # noqa: B018
    code = "from recprune_export import __main__ as entry, installation; entry.find_conflict = lambda: 'two releases'; entry.run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "Error: two releases\n")


def test_what_the_runtime_needs_is_named_by_its_extras(tmp_path: Path) -> None:
    package = make_package(tmp_path, whole=False)
    assert install_command("polars", package) == "pip install 'recprune-export-runtime[predict]'"
    assert install_command("onnx", package) == "pip install recprune-export-runtime"
    ours = ModuleNotFoundError(name="recprune_export.search")
    assert describe_missing_module(ours, "x", package) == "x requires the full package: pip install recprune-export"


@pytest.mark.parametrize("name", ["recprune_export.nothing", "tomllib", None])
def test_an_error_of_ours_stays_one(name: str | None) -> None:
    assert describe_missing_module(ModuleNotFoundError(name=name), "x") is None
