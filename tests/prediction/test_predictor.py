"""A predictor answers a batch of any kind in that kind, with the scores of the model, in any process."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recprune_export import Predictor
from recprune_export.bundle import write_bundle
from recprune_export.data import Encoder
from recprune_export.errors import BundleError, DataError, UsageError
from recprune_export.prediction import predict, predictor
from tests.bundle.complete import ENCODER, SIGNATURE, answer, files, write
from tests.bundle.samples import manifest
from tests.prediction.bundles import write_shared_bundle
from tests.prediction.test_predict import ENCODING, expected, raw, scored

ROWS = raw(300)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("predictor") / "bundle")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without vocabularies, which takes arrays."""
    contents = {name: content for name, content in files().items() if name != "encoding.json"}
    target = tmp_path_factory.mktemp("predictor") / "plain"
    return write_bundle(target, contents, manifest(name="sum", signature=SIGNATURE.to_dict()))


def arrays(rows: pl.DataFrame) -> dict[str, np.ndarray]:
    return Encoder.from_dict(ENCODER).encode(rows)


def as_table(rows: pl.DataFrame) -> Any:
    return pytest.importorskip("pyarrow").table(rows)


def as_record_batch(rows: pl.DataFrame) -> Any:
    return as_table(rows).combine_chunks().to_batches()[0]


def as_pandas(rows: pl.DataFrame) -> Any:
    return pytest.importorskip("pandas").DataFrame(rows.to_dict(as_series=False), index=range(7, 7 + len(rows)))


class Stream:
    """An object of another library, known by the Arrow PyCapsule interface alone."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._rows.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda rows: rows, "polars"),
        (lambda rows: {name: rows[name].to_list() for name in rows.columns}, "dict"),
        (lambda rows: {name: rows[name].to_numpy() for name in rows.columns}, "dict"),
        (as_table, "pyarrow"),
        (as_record_batch, "pyarrow"),
        (as_pandas, "pandas"),
        (Stream, "polars"),
    ],
    ids=["polars", "lists", "arrays", "Table", "RecordBatch", "pandas", "capsule"],
)
def test_the_answer_has_the_kind_of_the_batch(bundle: Path, make: Callable[[pl.DataFrame], Any], kind: str) -> None:
    batch = make(ROWS)
    made = Predictor(bundle, keep=["row"])(batch)
    assert (type(made).__module__.partition(".")[0] if kind != "dict" else type(made).__name__) == kind
    if kind != "polars":
        assert type(made) is type(batch)
    columns = (
        list(made) if kind == "dict" else list(getattr(made, "columns", ())) if kind != "pyarrow" else made.schema.names
    )
    assert columns == ["row", "y"]
    np.testing.assert_allclose(np.asarray(made["y"]), expected(ROWS), rtol=1e-5, atol=1e-5)
    assert np.asarray(made["row"]).tolist() == list(range(300))
    if kind == "pandas":
        assert made.index.equals(batch.index)


def test_scores_are_those_of_predict(bundle: Path, tmp_path: Path) -> None:
    ROWS.write_parquet(tmp_path / "rows.parquet")
    predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet", keep=["user", "row"])
    assert_frame_equal(Predictor(bundle, keep=("user", "row"))(ROWS), pl.read_parquet(tmp_path / "scores.parquet"))


def test_probabilities(tmp_path: Path) -> None:
    stated = scored(tmp_path, y=("logit", "y"))
    made = Predictor(stated, probability=True)
    assert made.columns == ("y_probability",)
    scores = made(ROWS)["y_probability"]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-expected(ROWS).astype(np.float64))), rtol=1e-5, atol=1e-7)


@given(cuts=st.lists(st.integers(0, 300), max_size=6), size=st.integers(1, 70))
def test_any_division_into_batches_gives_the_same_scores(bundle: Path, cuts: list[int], size: int) -> None:
    ends = [0, *sorted(cuts), 300]
    score = Predictor(bundle, batch_size=size)
    parts = [score(ROWS.slice(a, b - a)) for a, b in pairwise(ends)]
    np.testing.assert_allclose(pl.concat(parts)["y"], expected(ROWS), rtol=1e-5, atol=1e-5)


def test_a_batch_without_rows_has_no_scores(bundle: Path, plain: Path) -> None:
    assert Predictor(bundle)(ROWS.clear()).schema == {"y": pl.Float32}
    made = Predictor(plain)({name: values[:0] for name, values in arrays(ROWS).items()})
    assert (made["y"].shape, made["y"].dtype) == ((0,), np.float32)


def test_arrays_of_a_bundle_without_vocabularies_need_no_polars(plain: Path) -> None:
    code = """
import sys, pickle
sys.modules["polars"] = sys.modules["torch"] = None
from recprune_export import Predictor
import numpy as np
made = Predictor(sys.argv[1], keep="user")(
    {"user": np.array([1, 3]), "tags": np.zeros((2, 3), dtype=np.int64), "numeric": np.ones((2, 2), dtype=np.float32)})
print(made["user"].tolist(), made["y"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code, str(plain)], capture_output=True, text=True, check=False)
    assert done.stdout == "[1, 3] [3.0, 6.0]\n", done.stderr


def test_what_is_wrong_with_a_batch_is_one_sentence(bundle: Path, plain: Path) -> None:
    score, of_arrays = Predictor(bundle), Predictor(plain)
    good = arrays(ROWS)
    for made, batch, said in (
        (score, ROWS.drop("user"), r"batch has no column 'user'"),
        (of_arrays, {}, r"has no column '\w+'.*; it has no columns\."),
        (score, ROWS.with_columns(age=pl.lit("old")), r"'age' of the batch contains 'old' at row 0"),
        (score, {"user": ["a"], "tags": ["x", "y"], "age": [1.0], "price": [1]}, r"'user' has 1 rows and 'tags' has 2"),
        (score, {"user": np.array(["a", 1], dtype=object), "tags": ["", ""], "age": [1, 2], "price": [1, 1]}, r"'user' .*types"),
        (of_arrays, {**good, "user": np.full(300, 9)}, r"'user' in the batch contains the id 9 at row 0"),
        (of_arrays, {**good, "tags": good["tags"][:, :2]}, r"rows of shape \[2\]; the model expects \[3\]"),
        (of_arrays, {"user": good["user"]}, r"no column 'tags'.*2 are missing"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            made(batch)
    for batch, said in ((3, "type int: give arrays"), ([1], "type list"), (ROWS.lazy(), "LazyFrame")):
        with pytest.raises(UsageError, match=said):
            score(batch)
    with pytest.raises(DataError, match="which keep= names"):
        Predictor(bundle, keep=["session"])(ROWS)


def test_what_is_wrong_with_a_bundle_is_said_where_the_object_is_made(bundle: Path, tmp_path: Path) -> None:
    for path, options, error, said in (
        (tmp_path / "none", {}, BundleError, "is neither a directory nor a packed bundle"),
        (bundle, {"file": "model.raw.onnx"}, UsageError, "no ONNX file 'model.raw.onnx'; it has model.onnx"),
        (bundle, {"keep": ["y"]}, UsageError, "output of the model has the same name"),
        (bundle, {"probability": True}, UsageError, "leave out --probability"),
        (bundle, {"threads": 0}, UsageError, "must be 1 or more"),
    ):
        with pytest.raises(error, match=said):
            Predictor(path, **options)
    damaged = write(tmp_path / "damaged")
    (damaged / "encoding.json").write_bytes((damaged / "encoding.json").read_bytes() + b" ")
    with pytest.raises(BundleError, match=r"changed 'encoding\.json'"):
        Predictor(damaged)(ROWS)


def test_a_bundle_that_is_replaced_is_refused_in_another_process(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    pickled = pickle.dumps(Predictor(path))
    shutil.rmtree(path)
    write_bundle(path, files(), manifest(name="other", signature=SIGNATURE.to_dict(), encoding=ENCODING))
    with pytest.raises(BundleError, match="was replaced after this Predictor was created"):
        pickle.loads(pickled)(ROWS)


def test_a_job_of_unknown_values_is_refused_unless_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "bundle")
    strange = ROWS.with_columns(user=pl.lit("U") + pl.col("row").cast(pl.String))
    score = Predictor(path)
    for _ in range(3):
        score(strange)  # too few to tell
    with pytest.raises(DataError, match=r"1,200 of 1,200 values of 'user' in the batch"):
        score(strange)
    assert len(Predictor(path, allow_unknown=True)(strange)) == 300


def test_unknown_values_are_refused_after_a_predictor_that_allows_them(tmp_path: Path) -> None:
    path = write(tmp_path / "bundle")
    strange = ROWS.with_columns(user=pl.lit("U") + pl.col("row").cast(pl.String))
    for _ in range(3):
        Predictor(path, allow_unknown=True)(strange)
    with pytest.raises(DataError, match=r"1,200 of 1,200 values of 'user' in the batch"):
        Predictor(path)(strange)


def test_a_few_unknown_values_in_another_type_are_too_few_to_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "bundle")
    score, known = Predictor(path), pl.concat([ROWS] * 4)
    assert len(score(known)) == len(known)
    strange = ROWS.with_columns(user=pl.lit("new").cast(pl.Categorical))
    assert len(score(strange)) == 300


def test_a_process_makes_one_session_of_a_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    opened = predictor.open_model
    monkeypatch.setattr(predictor, "open_model", lambda *a: made.append(a) or opened(*a))
    predictor._opened.clear()
    score = Predictor(bundle)
    for _ in range(3):
        pickle.loads(pickle.dumps(score))(ROWS)
    Predictor(bundle, probability=False, batch_size=7)(ROWS)
    assert len(made) == 1
    Predictor(bundle, threads=2)(ROWS)
    assert len(made) == 2


def test_a_predictor_is_pickled_by_its_path(bundle: Path) -> None:
    score = Predictor(bundle, keep=["row"])
    score(ROWS)
    assert len(pickle.dumps(score)) < 1000
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(score, [ROWS.slice(start, 100) for start in range(0, 300, 100)]))
    assert_frame_equal(pl.concat(parts), score(ROWS))


def test_a_fork_with_polars_is_told_instead_of_waiting_forever(bundle: Path, plain: Path) -> None:
    code = """
import os, sys
import numpy as np, polars as pl
from recprune_export import Predictor
from recprune_export.errors import UsageError
frame, plain = Predictor(sys.argv[1]), Predictor(sys.argv[2])
arrays = {"user": np.array([1, 3]), "tags": np.zeros((2, 3), dtype=np.int64), "numeric": np.ones((2, 2), dtype=np.float32)}
rows = pl.DataFrame({"user": ["ann"], "tags": ["red"], "age": [1.0], "price": [2]})
frame(rows), plain(arrays)
if os.fork() == 0:
    assert plain(arrays)["y"].tolist() == [3.0, 6.0]
    try:
        frame(rows)
    except UsageError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""
    command = [sys.executable, "-c", code, str(bundle), str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "forked from a process that used polars" in done.stdout, done.stderr


def test_rows_of_equal_shared_values_are_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recprune_export.prediction import scorer

    sizes: list[tuple[int, int]] = []
    run = scorer.run
    monkeypatch.setattr(
        scorer, "run", lambda session, part: sizes.append((len(part["user"]), len(part["tags"]))) or run(session, part)
    )
    made = Predictor(write_shared_bundle(tmp_path / "shared"))(ROWS)
    np.testing.assert_allclose(made["y"], expected(ROWS), rtol=1e-5, atol=1e-5)
    ids = arrays(ROWS)["user"]
    assert sorted(sizes) == sorted((1, int(count)) for count in np.unique(ids, return_counts=True)[1])
    path = tmp_path / "rows.parquet"
    ROWS.write_parquet(path)
    predict(tmp_path / "shared", path, tmp_path / "scores.parquet")
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "scores.parquet")["y"], made["y"], rtol=1e-6)


def test_one_shared_value_of_arrays_stands_for_all_rows(tmp_path: Path) -> None:
    good = arrays(ROWS) | {"user": np.full(300, 2)}
    score = Predictor(write_shared_bundle(tmp_path / "plain", encoded=False))
    for user in (np.array([2]), np.array(2), np.full(300, 2)):
        np.testing.assert_allclose(score({**good, "user": user})["y"], answer(good)["y"], rtol=1e-5, atol=1e-5)
    raw_values = {name: ROWS[name].to_list() for name in ("tags", "age", "price")}
    of_values = Predictor(write_shared_bundle(tmp_path / "encoded"))
    made = of_values({**raw_values, "user": ["bob"]})["y"]
    np.testing.assert_allclose(made, expected(ROWS.with_columns(user=pl.lit("bob"))), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="differ in length"):
        of_values({**raw_values, "user": ["bob", "ann"]})
