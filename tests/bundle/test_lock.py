"""Two processes and one target: one wins, the other says so."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recprune_export.bundle import check_target, stage_bundle, verify
from recprune_export.bundle.lock import hold_write_lock, lock_file
from recprune_export.errors import UsageError
from tests.bundle.samples import write

HOLDER = """
import sys
from pathlib import Path
from recprune_export.bundle.write import stage_bundle
with stage_bundle(Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""


def holder(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


@pytest.mark.parametrize("end", ["quietly", "killed"])
def test_the_second_is_told_who_writes_and_may_when_the_first_has_ended(tmp_path: Path, end: str) -> None:
    target = tmp_path / "ctr"
    first = holder(target)
    for attempt in (check_target, write):
        with pytest.raises(UsageError, match=rf"Another process \({first.pid}\) is writing to .*ctr"):
            attempt(target)
    check_target(tmp_path / "other")
    if end == "killed":
        first.kill()
    first.communicate()
    assert verify(write(target)).name == "double"
    assert [p.name for p in tmp_path.iterdir()] == ["ctr"]


def test_whoever_holds_a_target_may_write_to_it_and_other_threads_may_not(tmp_path: Path) -> None:
    target = tmp_path / "ctr"
    told: list[str] = []

    def other() -> None:
        try:
            check_target(target)
        except UsageError as error:
            told.append(str(error))

    with stage_bundle(target):
        write(target)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert lock_file(target).exists()
    assert len(told) == 1
    check_target(target)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    lock_file(tmp_path / "ctr").symlink_to(victim)
    with pytest.raises(UsageError):
        check_target(tmp_path / "ctr")
    with pytest.raises(OSError, match="symbolic"), hold_write_lock(tmp_path / "ctr"):
        pass
    assert victim.read_text() == "mine"


def test_many_writers_at_once_leave_one_whole_bundle(tmp_path: Path) -> None:
    target, refused, written = tmp_path / "ctr", [], []

    def run() -> None:
        for _ in range(5):
            try:
                written.append(write(target))
            except UsageError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) + len(written) == 20
    assert written
    assert all("is writing to" in text for text in refused)
    assert verify(target).files == 3
    assert [p.name for p in tmp_path.iterdir()] == ["ctr"]


def test_a_full_disk_leaves_no_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match="No space left"):
        check_target(tmp_path / "ctr")
    assert not list(tmp_path.iterdir())
