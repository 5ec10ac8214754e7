"""Many files are scored into a folder: each once, whole or not at all, and again only where something differs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recprune_export.bundle import write_bundle
from recprune_export.cli import main
from recprune_export.errors import DataError, UsageError
from recprune_export.prediction import predict, predict_folder
from recprune_export.prediction.mirrored_paths import mirror_paths
from recprune_export.shard import Shard
from tests.bundle.complete import SIGNATURE, files, write
from tests.bundle.samples import manifest
from tests.prediction.test_predict import ENCODING, expected, raw


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("folder") / "bundle")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Six files in two folders."""
    for number in range(6):
        path = tmp_path / "rows" / f"day={number % 2}" / f"part-{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw(50 + number, seed=number).write_parquet(path)
    (tmp_path / "rows" / "_SUCCESS").touch()
    return tmp_path / "rows"


def written(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_each_file_gives_a_file_of_its_name(bundle: Path, lake: Path, tmp_path: Path) -> None:
    made = predict_folder(bundle, lake, tmp_path / "scores", keep=["row"])
    names = {f"day={n % 2}/part-{n}.parquet" for n in range(6)}
    assert set(written(tmp_path / "scores")) == names
    assert (made.rows, len(made.files), made.columns) == (sum(50 + n for n in range(6)), 6, ("row", "y"))
    for number in range(6):
        scores = pl.read_parquet(tmp_path / "scores" / f"day={number % 2}" / f"part-{number}.parquet")
        np.testing.assert_allclose(scores["y"], expected(raw(50 + number, seed=number)), rtol=1e-5, atol=1e-5)
    strange = sum(
        int((raw(50 + n, seed=n)["user"].is_null() | (raw(50 + n, seed=n)["user"] == "nobody")).sum()) for n in range(6)
    )
    assert made.unknown["user"] == strange


def test_what_is_finished_is_not_done_again_and_what_changed_is(bundle: Path, lake: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    predict_folder(bundle, lake, scores)
    before = written(scores)
    again = predict_folder(bundle, lake, scores)
    assert (again.rows, [part.finished for part in again.files]) == (0, [True] * 6)
    assert [part.rows for part in again.files] == [50, 52, 54, 51, 53, 55]
    assert written(scores) == before
    raw(7, seed=9).write_parquet(lake / "day=1" / "part-3.parquet")
    (scores / "day=0" / "part-2.parquet").write_bytes(b"PAR1 cut off")
    (scores / "day=0" / "part-4.parquet").unlink()
    with pytest.raises(UsageError, match=r"part-2.parquet exists, but was not written by `predict`"):
        predict_folder(bundle, lake, scores)
    (scores / "day=0" / "part-2.parquet").unlink()
    third = predict_folder(bundle, lake, scores)
    assert sorted(part.path.name for part in third.files if not part.finished) == [
        "part-2.parquet",
        "part-3.parquet",
        "part-4.parquet",
    ]
    assert pl.read_parquet(scores / "day=1" / "part-3.parquet").height == 7


def test_another_bundle_or_option_makes_the_scores_again(bundle: Path, lake: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    predict_folder(bundle, lake, scores)
    assert predict_folder(bundle, lake, scores, threads=2, rows=3).rows == 0  # these change no score
    assert predict_folder(bundle, lake, scores, keep=["row"]).rows > 0
    other = write_bundle(
        tmp_path / "other", files(), manifest(name="new", signature=SIGNATURE.to_dict(), encoding=ENCODING)
    )
    assert predict_folder(other, lake, scores, keep=["row"]).rows > 0


def test_shards_divide_the_files(bundle: Path, lake: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    predict_folder(bundle, lake, whole)
    made = [predict_folder(bundle, lake, shared, shard=Shard(index, 4)) for index in range(1, 5)]
    assert sorted(len(each.files) for each in made) == [1, 1, 2, 2]
    assert sum(each.rows for each in made) == sum(50 + n for n in range(6))
    for path in whole.rglob("*.parquet"):
        assert_frame_equal(pl.read_parquet(path), pl.read_parquet(shared / path.relative_to(whole)))


def test_a_file_that_is_wrong_stops_the_job_and_what_is_done_stays(bundle: Path, lake: Path, tmp_path: Path) -> None:
    raw(9).with_columns(age=pl.lit("old")).write_parquet(lake / "day=1" / "part-1.parquet")
    with pytest.raises(DataError, match=r"'age' of .*part-1.parquet contains 'old' at row 0"):
        predict_folder(bundle, lake, tmp_path / "scores")
    assert set(written(tmp_path / "scores")) == {f"day=0/part-{n}.parquet" for n in (0, 2, 4)}
    raw(9).write_parquet(lake / "day=1" / "part-1.parquet")
    made = predict_folder(bundle, lake, tmp_path / "scores")
    assert [part.finished for part in made.files] == [True, True, True, False, False, False]


def test_a_killed_job_goes_on_and_leaves_no_partial_file(bundle: Path, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / "rows").mkdir(exist_ok=True)
        raw(3000, seed=number).write_parquet(tmp_path / "rows" / f"{number}.parquet")
    command = [
        sys.executable,
        "-m",
        "recprune_export",
        "predict",
        str(bundle),
        "--data",
        str(tmp_path / "rows"),
        "--batch-size",
        "8",
    ]
    job = subprocess.Popen([*command, "-o", str(tmp_path / "scores"), "--quiet"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "scores").glob("*.parquet"))) < 3 and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    done = len(list((tmp_path / "scores").glob("*.parquet")))
    assert 3 <= done < 40
    made = predict_folder(bundle, tmp_path / "rows", tmp_path / "scores")
    assert sum(part.finished for part in made.files) == done
    assert set(written(tmp_path / "scores")) == {f"{n}.parquet" for n in range(40)}


def test_csv_files_keep_texts_and_get_a_suffix(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for number in range(2):
        raw(30, seed=number).write_csv(tmp_path / "rows" / f"{number}.csv")
    predict_folder(bundle, tmp_path / "rows" / "*.csv", tmp_path / "scores", keep=["row"])
    scores = pl.read_parquet(tmp_path / "scores" / "1.csv.parquet")
    assert scores.schema == {"row": pl.String, "y": pl.Float32}
    np.testing.assert_allclose(scores["y"], expected(raw(30, seed=1)), rtol=1e-5, atol=1e-5)


def test_one_file_of_scores_for_a_folder_of_rows(bundle: Path, lake: Path, tmp_path: Path) -> None:
    made = predict(bundle, lake, tmp_path / "scores.parquet", keep=["row", "day"])
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    rows = pl.concat([raw(50 + n, seed=n) for n in (0, 2, 4, 1, 3, 5)])
    assert made.rows == len(rows)
    assert scores["row"].equals(rows["row"])
    np.testing.assert_allclose(scores["y"], expected(rows), rtol=1e-5, atol=1e-5)


def test_a_field_in_the_names_of_folders(bundle: Path, tmp_path: Path) -> None:
    for user in ("ann", "bob"):
        (tmp_path / "rows" / f"user={user}").mkdir(parents=True)
        raw(20).drop("user").write_parquet(tmp_path / "rows" / f"user={user}" / "a.parquet")
    predict_folder(bundle, tmp_path / "rows", tmp_path / "scores", keep=["user"])
    scores = pl.read_parquet(tmp_path / "scores" / "user=bob" / "a.parquet")
    np.testing.assert_allclose(scores["y"], expected(raw(20).with_columns(user=pl.lit("bob"))), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_one_sentence(bundle: Path, lake: Path, tmp_path: Path) -> None:
    for output in (lake, lake / "scores", lake / "scores.parquet"):
        with pytest.raises(UsageError, match="would be read as rows in the next run"):
            (predict if output.suffix else predict_folder)(bundle, lake, output)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file: give a folder"):
        predict_folder(bundle, lake, tmp_path / "file")
    for name in ("scores.jsonl", "scores.feather"):
        with pytest.raises(UsageError, match=rf"{name} would be a folder: .* \.parquet or \.csv"):
            predict_folder(bundle, lake, tmp_path / name)
    (tmp_path / "scores" / "day=0").mkdir(parents=True)
    (tmp_path / "scores" / "day=0" / "part-0.parquet").write_bytes((lake / "day=0" / "part-0.parquet").read_bytes())
    with pytest.raises(UsageError, match="was not written by `predict`"):
        predict_folder(bundle, lake, tmp_path / "scores")
    with pytest.raises(DataError, match="no rows"):
        predict_folder(bundle, lake / "*.csv", tmp_path / "other")
    raw(9).with_columns(pl.col("row").cast(pl.String)).write_parquet(lake / "day=1" / "part-1.parquet")
    with pytest.raises(UsageError, match=r"'row', of --keep, contains String in .* and Int64 in earlier files"):
        predict_folder(bundle, lake, tmp_path / "other", keep=["row"])


def test_scores_without_rows_are_noted(bundle: Path, lake: Path, tmp_path: Path) -> None:
    predict_folder(bundle, lake, tmp_path / "scores")
    (lake / "day=1" / "part-5.parquet").unlink()
    (note,) = predict_folder(bundle, lake, tmp_path / "scores", shard=Shard(1, 2)).notes
    assert "1 files of scores whose rows are no longer in --data" in note
    assert "part-5.parquet" in note


def test_the_command_goes_on_and_says_so(bundle: Path, lake: Path, tmp_path: Path) -> None:
    words = ["predict", str(bundle), "--data", str(lake), "-o", str(tmp_path / "scores"), "--keep", "row"]
    first = CliRunner().invoke(main, [*words, "--shard", "1/2"])
    assert "Wrote row, y of 157 rows in 3 files to" in first.stdout
    assert "(shard 1/2)" in first.stdout
    assert "; 3 files were already finished" in CliRunner().invoke(main, words).stdout
    said = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert [part["finished"] for part in said["files"]] == [True] * 6
    assert "Nothing to do" in CliRunner().invoke(main, words).stdout
    one = CliRunner().invoke(main, [*words[:-4], "-o", str(tmp_path / "s.csv"), "--shard", "1/2"])
    assert one.exit_code == 2
    assert "--shard divides the work by files" in one.stderr


def test_a_question_mark_in_a_local_name_stays() -> None:
    files = [Path("rows/what?.parquet"), Path("rows/what?else.csv")]
    made = mirror_paths(Path("rows"), files, Path("scores"))
    assert [str(made[file]) for file in files] == ["scores/what?.parquet", "scores/what?else.csv.parquet"]
    url = "https://host/rows.parquet?version=2"
    assert str(mirror_paths(url, [url], Path("scores"))[url]).endswith("rows.parquet")


@given(names=st.sets(st.sampled_from(["a.parquet", "b/a.parquet", "b/c/d.pq", "x=1/a.csv", "e.csv.gz"]), min_size=1))
def test_places_are_those_below_the_folder(names: set[str]) -> None:
    for root in ("rows", "/lake/rows", "s3://lake/rows"):
        of = str if "://" in root else Path
        listed = [of(f"{root}/{name}") for name in sorted(names)]
        for source in (root, f"{root}/", f"{root}/**", f"{root}/*"):
            made = mirror_paths(of(source), listed, Path("scores"))
            assert [str(made[each]) for each in listed] == [
                f"scores/{name}" if name.endswith(".parquet") else f"scores/{name}.parquet" for name in sorted(names)
            ]
