"""Scores are those of the model, row by row, and what is wrong with rows or output is one sentence."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from recprune_export.bundle import write_bundle
from recprune_export.cli import main
from recprune_export.data import Encoder, encoding_summary
from recprune_export.errors import BundleError, DataError, UsageError
from recprune_export.output_meaning import OutputMeaning
from recprune_export.prediction import predict
from recprune_export.prediction import scorer as module
from recprune_export.prediction.score_columns import make_score_columns
from recprune_export.prediction.write_scores import write_batches
from recprune_export.program import BATCH, Output
from recprune_export.settings import DataSettings
from tests.bundle.complete import ENCODER, SIGNATURE, answer, files, write
from tests.bundle.samples import manifest
from tests.full_disk import file_size_limit

ENCODING = encoding_summary(ENCODER, "encoding.json")
USERS, TAGS = ["ann", "bob", "7", "nobody", None], ["red", "blue|red", "red||green| blue |red", "", None]


def raw(count: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "row": np.arange(count),
            "user": [USERS[n] for n in rng.integers(0, len(USERS), count)],
            "tags": [TAGS[n] for n in rng.integers(0, len(TAGS), count)],
            "age": [None if n % 11 == 0 else float(n % 80) for n in range(count)],
            "price": rng.integers(0, 9, count),
        },
        schema_overrides={"age": pl.Float64},
    )


def expected(rows: pl.DataFrame) -> np.ndarray:
    return answer(Encoder.from_dict(ENCODER).encode(rows))["y"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("predict") / "bundle")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_READ", 100)


@pytest.mark.usefixtures("small_parts")
def test_a_file_of_unknown_ids_is_refused_unless_allowed(bundle: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "rows.csv", tmp_path / "scores.csv"
    rows = raw(300).with_columns(user=pl.lit("U") + pl.col("row").cast(pl.String))
    rows.write_csv(data)
    with pytest.raises(DataError, match=r"300 of 300 values of 'user' .*'U0'.* known values .*'ann'.*--allow-unknown"):
        predict(bundle, data, output)
    assert not output.exists()
    made = predict(bundle, data, output, reading=DataSettings(allow_unknown=True))
    assert (made.rows, len(made.notes)) == (300, 1)


@pytest.mark.usefixtures("small_parts")
def test_a_text_among_numbers_is_located(bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    rows = raw(300).with_columns(pl.col("age").cast(pl.String))
    rows.with_columns(age=pl.when(pl.col("row") == 250).then(pl.lit("old")).otherwise("age")).write_csv(data)
    with pytest.raises(DataError, match=r"'age' .*'old' at row 250"):
        predict(bundle, data, tmp_path / "scores.csv")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("read", ["parquet", "csv"])
@pytest.mark.parametrize("written", ["parquet", "csv"])
@pytest.mark.parametrize(("count", "batch"), [(1, 7), (100, 100), (1234, 17)])
def test_every_row_has_the_score_of_the_model_in_its_order(
    bundle: Path, tmp_path: Path, read: str, written: str, count: int, batch: int
) -> None:
    rows, data, output = raw(count), tmp_path / f"rows.{read}", tmp_path / f"scores.{written}"
    getattr(rows, f"write_{read}")(data)
    made = predict(bundle, data, output, keep=["row"], rows=batch)
    scores = pl.read_parquet(output) if written == "parquet" else pl.read_csv(output)
    assert (made.rows, made.columns, scores.columns) == (count, ("row", "y"), ["row", "y"])
    assert scores["row"].to_list() == list(range(count))
    np.testing.assert_allclose(scores["y"].to_numpy(), expected(rows), rtol=1e-5, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([data.name, output.name])


def test_unknown_and_missing_values_are_counted(bundle: Path, tmp_path: Path) -> None:
    rows = raw(500)
    rows.write_parquet(tmp_path / "rows.parquet")
    made = predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
    strange = rows["user"].is_null() | (rows["user"] == "nobody")
    greens = sum((text or "").count("green") for text in rows["tags"])
    assert made.unknown == {"user": strange.sum(), "tags": greens, "age": rows["age"].null_count()}


def test_a_file_without_rows_gives_a_file_without_scores(bundle: Path, tmp_path: Path) -> None:
    raw(3).clear().write_parquet(tmp_path / "rows.parquet")
    assert predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet").rows == 0
    assert pl.read_parquet(tmp_path / "scores.parquet").schema == {"y": pl.Float32}


def wrong(rows: pl.DataFrame, data: Path, output: Path, bundle: Path, **options: Any) -> str:
    rows.write_parquet(data)
    with pytest.raises((DataError, UsageError, BundleError)) as found:
        predict(bundle, data, output, **options)
    assert not output.exists()
    assert [p.name for p in output.parent.iterdir()] == [data.name]
    return str(found.value)


def test_what_cannot_be_is_said_before_the_work(bundle: Path, tmp_path: Path) -> None:
    data, rows = tmp_path / "rows.parquet", raw(9)
    out = tmp_path / "scores.csv"
    assert "no column 'user'" in wrong(rows.drop("user"), data, out, bundle)
    assert "2 are missing" in wrong(rows.drop("user", "age"), data, out, bundle)
    assert "'age'" in wrong(rows.with_columns(age=pl.lit("old")), data, out, bundle)
    assert "no column 'id', which --keep names" in wrong(rows, data, out, bundle, keep=["id"])
    assert "output of the model" in wrong(rows.with_columns(y=1), data, out, bundle, keep=["y"])
    assert ".parquet or .csv" in wrong(rows, data, tmp_path / "scores.txt", bundle)
    assert "list in each row" in wrong(rows.with_columns(row=[[1]] * 9), data, out, bundle, keep=["row"])
    with pytest.raises(UsageError, match="is the file of the input rows"):
        predict(bundle, data, data)
    assert pl.read_parquet(data).height == 9


@pytest.mark.usefixtures("small_parts")
def test_a_row_that_is_found_bad_halfway_leaves_no_file(tmp_path: Path) -> None:
    plain = {name: content for name, content in files().items() if name != "encoding.json"}
    bundle = write_bundle(tmp_path / "bundle", plain, manifest(name="sum", signature=SIGNATURE.to_dict()))
    ids = {f"tags_{n}": [0] * 1000 for n in range(3)}
    rows = pl.DataFrame({"user": [1] * 1000, **ids, "numeric_0": [0.5] * 1000, "numeric_1": [1.0] * 1000})
    rows.write_parquet(tmp_path / "rows.parquet")
    predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "scores.parquet")["y"], 2.5)
    rows.with_columns(user=pl.when(pl.int_range(pl.len()) == 777).then(4).otherwise(1)).write_csv(tmp_path / "bad.csv")
    with pytest.raises(DataError, match=r"id 4 at row 777.*, but the table has ids 0 to 3"):
        predict(bundle, tmp_path / "bad.csv", tmp_path / "none.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv", "bundle", "rows.parquet", "scores.parquet"]


def test_texts_in_the_place_of_ids_that_the_graph_replaces_are_refused(tmp_path: Path) -> None:
    user, *rest = SIGNATURE.inputs
    signature = replace(SIGNATURE, inputs=(replace(user, bad_ids=(0,)), *rest))
    plain = {name: content for name, content in files().items() if name != "encoding.json"}
    bundle = write_bundle(tmp_path / "bundle", plain, manifest(name="sum", signature=signature.to_dict()))
    columns = {f"{name}_{n}": [0.0] * 2 for name, count in (("tags", 3), ("numeric", 2)) for n in range(count)}
    pl.DataFrame({"user": ["1", "u2"], **columns}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(
        DataError, match=r"'user' in .* contains text such as '1'; the model expects int64: write numbers"
    ):
        predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")


def test_numbers_that_the_graph_clips_are_counted(tmp_path: Path) -> None:
    *rest, numeric = SIGNATURE.inputs
    assert numeric.name == "numeric"
    signature = replace(SIGNATURE, inputs=(*rest, replace(numeric, number_limit=1000.0)))
    bundle = write_bundle(tmp_path / "bundle", files(), manifest(name="sum", signature=signature.to_dict()))
    rows = raw(5).with_columns(age=pl.Series([1.0, 1e30, 2.0, -1e30, 3.0]))
    rows.write_parquet(tmp_path / "rows.parquet")
    assert predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet").unknown["age"] == 2


def scored(folder: Path, **scores: tuple[str | None, str | None]) -> Path:
    """A bundle that states the kind and the label of its outputs."""
    section = {name: OutputMeaning(kind, label).to_dict() for name, (kind, label) in scores.items()}
    stated = manifest(name="sum", signature=SIGNATURE.to_dict(), encoding=ENCODING, scores=section)
    return write_bundle(folder / "scored", files(), stated)


def test_the_columns_say_what_a_score_is(tmp_path: Path) -> None:
    rows = raw(200).with_columns(y=pl.lit(1))
    rows.write_parquet(tmp_path / "rows.parquet")
    logits = expected(rows)
    bundle = scored(tmp_path, y=("logit", "y"))
    made = predict(bundle, tmp_path / "rows.parquet", tmp_path / "s.parquet", keep=["y"])
    assert made.columns == ("y", "y_logit")
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "s.parquet")["y_logit"], logits, rtol=1e-5, atol=1e-5)
    made = predict(bundle, tmp_path / "rows.parquet", tmp_path / "p.parquet", probability=True)
    assert made.columns == ("y_probability",)
    scores = pl.read_parquet(tmp_path / "p.parquet")["y_probability"]
    assert scores.dtype == pl.Float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-5, atol=1e-7)


def test_probabilities_are_written_as_they_are(tmp_path: Path) -> None:
    raw(9).write_parquet(tmp_path / "rows.parquet")
    bundle = scored(tmp_path, y=("probability", "y"))
    for probability in (False, True):
        made = predict(bundle, tmp_path / "rows.parquet", tmp_path / f"{probability}.parquet", probability=probability)
        assert made.columns == ("y_probability",)
    assert pl.read_parquet(tmp_path / "False.parquet").equals(pl.read_parquet(tmp_path / "True.parquet"))


@pytest.mark.parametrize(
    ("kind", "label", "words"),
    [
        (None, None, "not specified"),
        ("value", "stars", "predicted value of 'stars'"),
        ("value", None, "no label was given"),
        ("scores", None, "scores of items"),
        ("ranking", "next_item", "scores of all items"),
    ],
)
def test_what_is_no_logit_has_no_probability(kind: str | None, label: str | None, words: str, tmp_path: Path) -> None:
    raw(9).write_parquet(tmp_path / "rows.parquet")
    bundle = scored(tmp_path, y=(kind, label))
    done = CliRunner().invoke(
        main,
        [
            "predict",
            str(bundle),
            "--data",
            str(tmp_path / "rows.parquet"),
            "-o",
            str(tmp_path / "s.csv"),
            "--probability",
        ],
    )
    assert done.exit_code == 2
    assert words in done.stderr
    assert "leave out --probability" in done.stderr
    assert not (tmp_path / "s.csv").exists()


def test_outputs_without_a_probability_stay_as_they_are() -> None:
    section = {name: OutputMeaning(*of).to_dict() for name, of in (("y", ("logit", "y")), ("z", ("value", None)))}
    stated = manifest(name="sum", signature=SIGNATURE.to_dict(), scores=section)
    signature = replace(SIGNATURE, outputs=(*SIGNATURE.outputs, Output("z", "float32", (BATCH,))))
    clicked, other = make_score_columns(stated, signature, probability=True)
    assert (clicked.column, other.column) == ("y_probability", "z")
    logits = np.array([0.0, 3.0], dtype=np.float32)
    np.testing.assert_allclose(clicked.convert(logits), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    np.testing.assert_array_equal(other.convert(logits), logits)


def test_a_missing_column_of_several_numbers_says_how_it_is_stored(tmp_path: Path) -> None:
    plain = {name: content for name, content in files().items() if name != "encoding.json"}
    bundle = write_bundle(tmp_path / "bundle", plain, manifest(name="sum", signature=SIGNATURE.to_dict()))
    pl.DataFrame({"user": [1, 2]}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"no column 'tags'.*\(a column of lists, or the columns tags_0 to tags_2\)"):
        predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")


def test_the_screen_and_the_help_say_what_a_score_is(bundle: Path, tmp_path: Path) -> None:
    raw(9).write_parquet(tmp_path / "rows.parquet")
    words = ["predict", str(scored(tmp_path, y=("logit", "y"))), "--data", str(tmp_path / "rows.parquet")]
    text = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "s.csv")]).stdout
    assert "'y_logit' is the logit of 'y': the probability that 'y' is 1 is sigmoid(logit)" in text
    values = json.loads(CliRunner().invoke(main, [*words, "-o", str(tmp_path / "s.csv"), "--json"]).stdout)
    assert values["scores"]["y_logit"]["kind"] == "logit"
    old = CliRunner().invoke(main, ["predict", str(bundle), *words[2:], "-o", str(tmp_path / "s.csv")]).stdout
    assert "'y' is an output whose meaning is not specified" in old
    assert "logit" in CliRunner().invoke(main, ["predict", "--help"]).stdout


def test_a_damaged_bundle_scores_nothing(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    (bundle / "encoding.json").write_bytes((bundle / "encoding.json").read_bytes() + b" ")
    raw(3).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(BundleError, match=r"changed 'encoding\.json'"):
        predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")


def test_the_command_says_what_it_wrote_and_needs_no_torch(bundle: Path, tmp_path: Path) -> None:
    raw(50).write_csv(tmp_path / "rows.csv")
    arguments = ["predict", str(bundle), "--data", str(tmp_path / "rows.csv"), "-o", str(tmp_path / "scores.csv")]
    code = f"import sys; sys.modules['torch'] = None\nfrom recprune_export.cli import main; main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "y of 50 rows" in done.stdout
    assert "values of 'user' are empty, out of range or unknown" in done.stderr
    said = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert (said["rows"], said["output_columns"]) == (50, ["y"])


def test_a_second_interruption_leaves_no_part_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, interruptions = Path.unlink, [KeyboardInterrupt()]

    def interrupted_once(path: Path, missing_ok: bool = False) -> None:
        if interruptions:
            raise interruptions.pop()
        unlink(path, missing_ok=missing_ok)

    def fail_to_rename(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", interrupted_once)
    monkeypatch.setattr(os, "replace", fail_to_rename)
    with pytest.raises(KeyboardInterrupt):
        write_batches(tmp_path / "scores.csv", lambda: iter([pl.DataFrame({"score": [0.5]})]), {"score": pl.Float64()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scores.parquet", "scores.csv"])
def test_a_full_disk_is_said_in_the_words_of_the_system(name: str, tmp_path: Path) -> None:
    rows = pl.DataFrame({"score": np.random.default_rng(0).random(200_000)})
    with (
        file_size_limit(8_000),
        pytest.raises(UsageError, match=rf"{name} cannot be written: File too large\.$"),
    ):
        write_batches(tmp_path / name, lambda: iter([rows]), rows.schema)
    assert list(tmp_path.iterdir()) == []
