"""kill -9 at any moment leaves the bundle that was there or the new one, and what is left beside it is cleared away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recprune_export.bundle import verify, write_bundle
from recprune_export.bundle import write as module
from tests.bundle.samples import files, manifest, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("kills", "seed"), [(8, 0), pytest.param(100, 1, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_one_whole_bundle(tmp_path: Path, kills: int, seed: int) -> None:
    command = [sys.executable, "-m", "tests.bundle.killed", str(tmp_path / "ctr"), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["old"] + found["new"] == kills
    assert found["beside"] == ["ctr"]
    if kills > 50:  # the moments were spread over the whole of writing
        assert min(found["old"], found["new"], found["leftovers"]) > 0
    assert verify(tmp_path / "ctr").name == "first"


def test_a_bundle_that_was_put_aside_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names cannot be exchanged in one step, a kill between two renames leaves the old bundle under another name."""
    target = write_bundle(tmp_path / "ctr", files(), manifest(name="old"))
    monkeypatch.setattr(module, "_exchange", lambda first, second: False)
    real = os.rename

    def dies_after(source: Path, destination: Path) -> None:
        real(source, destination)
        if str(destination).endswith(".old"):
            os.kill(os.getpid(), 9)

    child = os.fork()
    if not child:
        monkeypatch.setattr(os, "rename", dies_after)
        write(target)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9
    assert not target.exists()
    module.check_target(target)
    assert verify(target).name == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["ctr"]


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    others = [".ctr.tmp", ".ctr.mine.tmp", ".other.0123456789ab.tmp", "ctr.0123456789ab.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    write(tmp_path / "ctr")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "ctr"])
