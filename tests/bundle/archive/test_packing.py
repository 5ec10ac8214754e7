"""A packed bundle is the bundle again, the same bytes each time; and what only looks like one is refused by name."""

import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from click.testing import CliRunner

from recprune_export.bundle import is_packed, open_bundle_path, pack, verify
from recprune_export.bundle.archive import unpacking
from recprune_export.bundle.archive.packing import count_packed_bytes
from recprune_export.cli import main
from recprune_export.errors import BundleError, RecpruneError, UsageError
from tests.bundle.complete import write
from tests.prediction.test_predict import raw

Entry = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("packing") / "bundle")


@pytest.fixture(scope="module")
def packed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(bundle, tmp_path_factory.mktemp("packed") / "ctr.tar.zst")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are extracted; whatever happens, nothing may stay there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def entries(packed: Path) -> list[Entry]:
    plain = zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]


def archive(path: Path, made: list[Entry], format: int = tarfile.USTAR_FORMAT) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=format) as tar:
        for info, content in made:
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(zstandard.compress(plain.getvalue()))
    return path


def test_what_comes_out_is_what_went_in(bundle: Path, packed: Path, scratch: Path) -> None:
    assert is_packed(packed)
    assert not is_packed(bundle)
    with open_bundle_path(packed) as folder:
        assert contents(folder) == contents(bundle)
        assert verify(folder).name == "sum"
    assert list(scratch.iterdir()) == []
    with open_bundle_path(bundle) as folder:
        assert folder == bundle


def test_the_same_files_give_the_same_bytes(bundle: Path, packed: Path, tmp_path: Path) -> None:
    for path in bundle.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(bundle, tmp_path / "again.tar.zst").read_bytes() == packed.read_bytes()
    infos = [info for info, _ in entries(packed)]
    assert [info.name for info in infos][1:] == sorted(info.name for info in infos[1:])
    assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info in infos} == {(0, 0, 0, "", 0o644)}


def test_a_second_name_of_the_model_costs_little(tmp_path: Path) -> None:
    from recprune_export.bundle import HardLink, write_bundle
    from tests.bundle import samples

    noise = random.Random(0).randbytes(3 << 20)
    plain = {**samples.files(), "weights": noise}
    sizes = []
    for number, more in enumerate([{}, {"triton/m/1/weights": HardLink("weights")}]):
        made = write_bundle(tmp_path / str(number), {**plain, **more}, samples.manifest())
        sizes.append(pack(made).stat().st_size)
    assert sizes[1] - sizes[0] < len(noise) // 100


def test_the_packed_bytes_of_files_are_those_of_their_stream(tmp_path: Path) -> None:
    rng = random.Random(0)
    files = [tmp_path / "model.onnx", tmp_path / "model.onnx.data"]
    files[0].write_bytes(rng.randbytes(5_000))
    files[1].write_bytes(rng.randbytes(300_000) + bytes(900_000))
    counted = count_packed_bytes(files)
    assert 305_000 < counted < 310_000  # zeros take next to nothing
    assert count_packed_bytes(files[:1]) < counted
    assert count_packed_bytes([files[1], files[1]]) < 1.1 * counted  # a second copy costs little


def test_only_a_whole_bundle_is_packed(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    (bundle / "README.md").write_text("other")
    with pytest.raises(BundleError, match=r"README\.md"):
        pack(bundle)
    with pytest.raises(UsageError, match="is a directory"):
        pack(write(tmp_path / "whole"), tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == []


def same_content(one: bytes | bytearray, other: bytes) -> bool:
    """Whether two packed bundles are extracted to the same bytes."""
    try:
        streams = [zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(bytes(c)) for c in (one, other)]
        return streams[0].read() == streams[1].read()
    except zstandard.ZstdError:
        return False


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_is_found(packed: Path, tmp_path: Path, scratch: Path, seed: int) -> None:
    rng, content = random.Random(seed), bytearray(packed.read_bytes())
    if seed % 2:
        content = content[: rng.randrange(4, len(content))]
    else:
        while same_content(content, packed.read_bytes()):  # some bits of a compressed block change nothing
            content[rng.randrange(6, len(content))] ^= 1 << rng.randrange(8)  # after the frame's own header
    (tmp_path / "bad.tar.zst").write_bytes(content)
    with pytest.raises(RecpruneError, match=r"bad\.tar\.zst"), open_bundle_path(tmp_path / "bad.tar.zst") as folder:
        verify(folder)
    assert list(scratch.iterdir()) == []


def named(name: str) -> Callable[[list[Entry]], None]:
    def change(made: list[Entry]) -> None:
        made[1][0].name = name

    return change


def typed(kind: bytes, target: str = "") -> Callable[[list[Entry]], None]:
    def change(made: list[Entry]) -> None:
        info = tarfile.TarInfo("sum/README.md")
        info.type, info.linkname = kind, target
        made[1] = (info, b"")

    return change


def grown(made: list[Entry]) -> None:
    made[1][0].size += 1
    made[1] = (made[1][0], made[1][1] + b"x")


def twice(made: list[Entry]) -> None:
    made.insert(2, made[1])


def extra(made: list[Entry]) -> None:
    made.append((tarfile.TarInfo("sum/extra.bin"), b""))


HOSTILE = {
    "absolute": (named("/etc/passwd"), "'/etc/passwd' is not in the folder of the bundle"),
    "absolute inside": (named("sum//etc/passwd"), "not allowed in a bundle"),
    "parent": (named("sum/../../outside"), "not allowed in a bundle"),
    "parent first": (named("../outside"), "is not in the folder of the bundle"),
    "other folder": (named("other/README.md"), "is not in the folder of the bundle"),
    "no folder": (named("README.md"), "is not in the folder of the bundle"),
    "odd letters": (named("sum/a\nb"), "not allowed in a bundle"),
    "symlink": (typed(tarfile.SYMTYPE, "/etc/passwd"), "'sum/README.md' is not a regular file"),
    "hard link": (typed(tarfile.LNKTYPE, "sum/manifest.json"), "'sum/README.md' is not a regular file"),
    "folder": (typed(tarfile.DIRTYPE), "not a regular file"),
    "device": (typed(tarfile.CHRTYPE), "not a regular file"),
    "fifo": (typed(tarfile.FIFOTYPE), "not a regular file"),
    "grown": (grown, "a different size"),
    "twice": (twice, "is present twice"),
    "extra": (extra, r"'extra\.bin' is not declared in manifest\.json"),
    "manifest twice": (lambda made: made.append(made[0]), r"'manifest\.json' is not declared"),
    "missing": (lambda made: made.pop(3), "lacks "),
    "manifest last": (lambda made: made.append(made.pop(0)), r"its first entry is not manifest\.json"),
    "empty": (lambda made: made.clear(), r"its first entry is not manifest\.json"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_by_name(packed: Path, tmp_path: Path, scratch: Path, case: str) -> None:
    change, said = HOSTILE[case]
    made = entries(packed)
    change(made)
    hostile = archive(tmp_path / "hostile.tar.zst", made)
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(BundleError, match=said) as found, open_bundle_path(hostile):
        pytest.fail("it was opened")
    assert "hostile.tar.zst" in str(found.value)
    assert list(scratch.iterdir()) == []
    assert sorted(tmp_path.parent.iterdir()) == before


def test_headers_that_would_be_read_into_memory_are_refused(packed: Path, tmp_path: Path, scratch: Path) -> None:
    made = entries(packed)
    made[1][0].pax_headers = {"comment": "x" * 1000}
    made[1][0].name = "sum/" + "n" * 300
    for number, format in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        with (
            pytest.raises(BundleError, match="not a regular file"),
            open_bundle_path(archive(tmp_path / f"{number}.tar.zst", made, format)),
        ):
            pytest.fail("it was opened")


def test_more_than_the_disk_holds_is_refused_before_it_is_written(
    packed: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(BundleError, match="more than the 1,000 bytes that are allowed"), open_bundle_path(packed):
        pytest.fail("it was opened")


@pytest.mark.parametrize("rest", [b"more", zstandard.compress(b"more"), zstandard.compress(bytes(1 << 20))])
def test_what_comes_after_the_end_is_refused(packed: Path, tmp_path: Path, scratch: Path, rest: bytes) -> None:
    (tmp_path / "long.tar.zst").write_bytes(packed.read_bytes() + rest)
    with pytest.raises(BundleError, match=r"long\.tar\.zst"), open_bundle_path(tmp_path / "long.tar.zst"):
        pytest.fail("it was opened")


@pytest.mark.parametrize("content", [b"", b"no archive", bytes(5000), b"\x1f\x8b gzip"])
def test_other_compressed_files_are_no_bundles(tmp_path: Path, scratch: Path, content: bytes) -> None:
    (tmp_path / "x.tar.zst").write_bytes(zstandard.compress(content))
    with pytest.raises(BundleError, match=r"x\.tar\.zst"), open_bundle_path(tmp_path / "x.tar.zst"):
        pytest.fail("it was opened")


def test_errors_inside_name_the_archive(packed: Path, scratch: Path) -> None:
    with pytest.raises(UsageError, match=r"ctr\.tar\.zst is bad") as found, open_bundle_path(packed) as folder:
        raise UsageError(f"{folder} is bad")
    assert str(scratch) not in str(found.value)


def test_commands_read_packed_bundles(packed: Path, tmp_path: Path, scratch: Path) -> None:
    raw(20).write_parquet(tmp_path / "rows.parquet")
    for arguments, said in (
        (["verify", packed], "sum: "),
        (["predict", packed, "--data", tmp_path / "rows.parquet", "-o", tmp_path / "y.csv"], "y of 20 rows"),
        (["inspect", packed, "--latency-batch-sizes", "1"], "Cost of a request"),
        (["profile", packed, "--batch-size", "1"], "Batch 1"),
        (["report", packed, "-o", tmp_path / "page.html"], "Report: "),
    ):
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output
        assert said in done.output
    assert list(scratch.iterdir()) == []


def test_the_command_packs_and_other_tools_unpack(bundle: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["pack", str(bundle), "-o", str(tmp_path / "b.tar.zst")])
    assert done.exit_code == 0, done.output
    plain = zstandard.ZstdDecompressor().stream_reader((tmp_path / "b.tar.zst").read_bytes()).read()
    (tmp_path / "b.tar").write_bytes(plain)
    subprocess.run(["tar", "-xf", "b.tar"], cwd=tmp_path, check=True)
    assert contents(tmp_path / "sum") == contents(bundle)


def test_without_the_package_it_is_said_how_to_get_it(packed: Path) -> None:
    code = (
        "import sys; sys.modules['zstandard'] = None\n"
        f"from recprune_export.cli import main; main(['verify', {str(packed)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "recprune-export[pack]" in done.stderr) == (2, True), done.stderr
