"""What a bundle says of its making: true, and silent where nothing is known."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from recprune_export.bundle import Manifest
from recprune_export.errors import UsageError
from recprune_export.provenance import file_identity, find_commit, find_package_commit, provenance
from recprune_export.settings import Settings
from tests.bundle.samples import manifest


def git(repository: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(repository), *settings, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_commit_is_known_and_a_change_of_tracked_files_too(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "rows.csv").write_text("not tracked")
    assert find_commit(repository) == {"commit": head, "changed": False}
    (repository / "train.py").write_text("2\n")
    assert find_commit(repository) == {"commit": head, "changed": True}


def test_a_folder_is_known_by_all_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "inner" / "a").write_bytes(b"23")
    before = file_identity(tmp_path)
    assert before["bytes"] == 3
    listed = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (("b", b"1"), ("inner/a", b"23"))
    )
    assert before["sha256"] == hashlib.sha256(listed.encode()).hexdigest()
    (tmp_path / "inner" / "a").write_bytes(b"24")
    assert file_identity(tmp_path)["sha256"] != before["sha256"]


def test_where_there_is_no_commit_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert find_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert find_commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert find_commit(tmp_path) is None
    assert find_package_commit() is None


def test_the_section_follows_the_schema_and_gives_no_path_away(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    rows = file_identity(repository / "train.py")
    made = provenance(command=["model.pt"], model=None, data=rows, seeds={"compression": 3})
    assert made["data"] == {"name": "train.py", "bytes": 2, "sha256": hashlib.sha256(b"1\n").hexdigest()}
    assert made["commits"]["working_directory"] == find_commit(repository)
    assert str(repository) not in str(made)
    stated = manifest(provenance=made).to_dict()
    assert stated["provenance"] == made
    assert Manifest.model_validate({k: v for k, v in stated.items() if k != "checksum"}).provenance == made


@pytest.mark.parametrize("text", ["free for all", "Apache 2", "", "GPL", "MIT AND", "Proprietary"])
def test_free_text_is_no_license(text: str) -> None:
    with pytest.raises(UsageError, match="LicenseRef-"):
        Settings(license=text)


def test_a_license_is_spelled_as_spdx_does() -> None:
    assert Settings(license="apache-2.0 OR mit").export.license == "Apache-2.0 OR MIT"
    assert Settings().export.license is None
