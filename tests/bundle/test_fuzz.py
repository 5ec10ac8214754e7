"""Bundles that were changed by accident or by somebody who means harm: refused in a sentence, or still valid.

Never a traceback, never code of the bundle's own, never a look outside of it.
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export.bundle import verify, write_bundle
from recprune_export.cli import main
from recprune_export.errors import BundleError, RecpruneError
from recprune_export.gate import open_artifact
from tests.bundle.mutations import (
    CHANGES,
    deep_manifest,
    flip,
    foreign_weights,
    huge_sizes,
    moved_files,
    pickled_samples,
)
from tests.bundle.samples import files, manifest, write
from tests.report.samples import full

PATIENCE = 20.0  # seconds for one bundle on a busy machine; one that hangs takes for ever
CODES = {0, 1, 3}  # fine, a check failed, a file that is not what it should be


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("small") / "ctr")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest says all that a manifest can say."""
    stated = {"signature": manifest().signature}
    return write_bundle(tmp_path_factory.mktemp("told") / "ctr", files(), full(**stated))


def changed(base: Path, folder: Path, seed: int) -> Path:
    folder.mkdir()
    bundle = folder / "ctr"
    shutil.copytree(base, bundle)
    CHANGES[seed % len(CHANGES)](bundle, random.Random(seed))
    return bundle


def check(bundle: Path) -> set[str]:
    """Let all that open bundles open it; return what became of it."""
    outcomes = set()
    start = time.monotonic()
    for command in ("verify", "report", "inspect"):
        words = [command, str(bundle), *(["--latency-batch-sizes", "1"] if command == "inspect" else [])]
        done = CliRunner().invoke(main, words)
        assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exc_info)
        assert done.exit_code in CODES, (words, done.output)
        if done.exit_code:
            assert done.stderr.splitlines()[-1].startswith("Error: "), (words, done.output)
        outcomes.add("refused" if done.exit_code else "valid")
    try:
        open_artifact(bundle)
    except RecpruneError as error:
        assert len(str(error)) > 20  # noqa: PT017
    assert not (bundle.parent / "marker").exists(), "code of the bundle ran"
    assert time.monotonic() - start < PATIENCE
    return outcomes


@pytest.mark.parametrize("base", ["small", "told"])
@pytest.mark.parametrize(
    "part",
    [range(40), *(pytest.param(range(s, s + 100), marks=pytest.mark.slow) for s in range(40, 540, 100))],
    ids=str,
)
def test_each_is_refused_by_name_or_still_valid(
    base: str, part: range, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    outcomes = set()
    for seed in part:
        folder = tmp_path / str(seed)
        outcomes |= check(changed(request.getfixturevalue(base), folder, seed))
        shutil.rmtree(folder)
    assert outcomes == {"refused", "valid"}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("change", [deep_manifest, foreign_weights, huge_sizes, moved_files, pickled_samples])
def test_what_can_only_be_meant_is_always_refused(change: object, seed: int, small: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "ctr"
    shutil.copytree(small, bundle)
    before = json.loads((bundle / "manifest.json").read_bytes())
    assert callable(change)
    change(bundle, random.Random(seed))
    if change is huge_sizes and json.loads((bundle / "manifest.json").read_bytes()) == before:
        return
    with pytest.raises(BundleError):
        verify(bundle)


def test_weights_outside_are_refused_before_onnx_runtime_sees_them(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recprune_export.onnx.runtime import session

    bundle = tmp_path / "ctr"
    shutil.copytree(small, bundle)
    foreign_weights(bundle, random.Random(3))
    monkeypatch.setattr(session, "make_session", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(BundleError, match="weights"):
        verify(bundle)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(small: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "manifest.json"):
        bundle = tmp_path / name / "ctr"
        shutil.copytree(small, bundle)
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        assert check(bundle) == {"refused"} or name == "model.onnx"


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{}", b"null", b"[" * 100_000, b"\xff", b'{"schema": 3, "vocabularies": {}, "means": {}, "stds": {}}'],
)
def test_an_encoding_that_is_none_is_refused_when_rows_are_scored(tmp_path: Path, content: bytes) -> None:
    bundle = write_bundle(tmp_path / "ctr", {**files(), "encoding.json": content}, manifest())
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    words = ["predict", str(bundle), "--data", str(tmp_path / "rows.csv"), "-o", str(tmp_path / "scores.csv")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 3, done.output
    assert "encoding.json" in done.stderr


@pytest.mark.parametrize("seed", range(20))
def test_packed_bundles(small: Path, tmp_path: Path, seed: int) -> None:
    zstandard = pytest.importorskip("zstandard")
    from recprune_export.bundle import pack

    rng, packed = random.Random(seed), pack(small, tmp_path / "ctr.tar.zst")
    content = packed.read_bytes()
    if seed % 2:
        packed.write_bytes(flip(content, rng))
    else:  # what the compression's own checksum does not see
        tar = zstandard.ZstdDecompressor().decompress(content, max_output_size=1 << 24)
        packed.write_bytes(zstandard.ZstdCompressor().compress(flip(tar, rng)))
    done = CliRunner().invoke(main, ["verify", str(packed)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code in CODES
    assert [p.name for p in tmp_path.iterdir()] == ["ctr.tar.zst"]
