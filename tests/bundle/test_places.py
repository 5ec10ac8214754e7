"""Where a bundle is written: full disks, spaces, other scripts, links."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export.bundle import _verify as verify_module
from recprune_export.bundle import check_target, read_manifest, verify, write_bundle
from recprune_export.bundle import write as module
from recprune_export.cli import main
from recprune_export.errors import UsageError
from tests.bundle.samples import files, manifest, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name", ["with spaces", "größe", "推荐", "a'b\"c", "-dash", "[brackets]", "50%", ".hidden", "x" * 100]
)
def test_names_of_all_kinds(tmp_path: Path, name: str) -> None:
    for _ in range(2):  # also in the place of itself
        target = write_bundle(tmp_path / name / name, files(), manifest(name=name))
    assert verify(target).name == name
    for command in ("verify", "report", "inspect"):
        done = CliRunner().invoke(main, [command, str(target)])
        assert done.exit_code == 0, done.output
    assert sorted(p.name for p in target.parent.iterdir()) == sorted([name, f"{name}.report.html"])


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", os.fsdecode(b"\xff")])
def test_names_that_are_no_text_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="invalid characters"):
        check_target(tmp_path / name)


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        check_target(tmp_path / ("x" * 300))


def test_what_no_terminal_should_be_sent_is_not_written(tmp_path: Path) -> None:
    odd = manifest(settings={"command": ["compress", "a\x1b[2J\udcff.pt"]}, notes=["one\ttwo\nthree"])
    read = read_manifest(write_bundle(tmp_path / "ctr", files(), odd))
    assert read.settings["command"][1] == "a\ufffd[2J\ufffd.pt"
    assert read.notes == ["one\ttwo\nthree"]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    real = write(tmp_path / "releases" / "one")
    link = tmp_path / "current"
    link.symlink_to(real)
    (tmp_path / "folder").symlink_to(tmp_path / "releases")
    for target in (link, tmp_path / "folder" / "one"):
        assert write(target) == real
        assert link.is_symlink()
        assert verify(link).name == "double"
    assert [p.name for p in real.parent.iterdir()] == ["one"]


def test_a_circle_of_links_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError):
        check_target(tmp_path / "a")


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    target = tmp_path / "ctr"
    if existing:
        write(target)
    honest = module._write

    def full(path: Path, content: Path | bytes) -> object:
        if path.name == "outputs.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(path, content)

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write(target)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["ctr"] if existing else [])
    if existing:
        verify(target)


def test_files_that_may_not_grow_for_real(tmp_path: Path) -> None:
    """The system itself refuses to write more."""
    code = (
        "import sys; from pathlib import Path; from tests.bundle.samples import *\n"
        "from recprune_export.errors import UsageError\n"
        "try: write_bundle(Path(sys.argv[1]), {**files(), 'large.bin': bytes(1 << 20)}, manifest())\n"
        "except UsageError as error: print(error); sys.exit(2)"
    )

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))

    target = write(tmp_path / "ctr")
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        preexec_fn=limited,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stdout
    assert verify(target).files == 3
    assert [p.name for p in tmp_path.iterdir()] == ["ctr"]


def test_a_full_disk_elsewhere_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")

    monkeypatch.setattr(verify_module, "verify", full)
    done = CliRunner().invoke(main, ["verify", str(write(tmp_path / "ctr"))])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: No space left on device (/tmp/x)")
