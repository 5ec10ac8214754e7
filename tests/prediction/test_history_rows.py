"""Histories are scored from lists and from logs alike, as the model's own encoder reads them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export import Predictor
from recprune_export.errors import DataError, UsageError
from recprune_export.prediction import predict, predict_folder
from recprune_export.settings import DataSettings
from tests.prediction.bundles import HISTORY_ENCODER, answer_histories, histories, write_history_bundle

ROWS = histories(200)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_history_bundle(tmp_path_factory.mktemp("histories") / "bundle")


def expected(rows: pl.DataFrame) -> np.ndarray:
    """The scores, by a walk over the lists in plain Python."""
    ids = {text: i for i, text in enumerate(HISTORY_ENCODER.items.to_list(), start=1)}
    known = [[ids[item] for item in items if item in ids][-3:] for items in rows["history"].to_list()]
    return answer_histories(np.array([[0] * (3 - len(items)) + items for items in known]))


def test_lists_of_items(bundle: Path, tmp_path: Path) -> None:
    made = Predictor(bundle, keep=["row"])(ROWS)
    assert made.schema == {"row": pl.Int64, "scores": pl.Array(pl.Float32, 5)}
    np.testing.assert_allclose(made["scores"].to_numpy(), expected(ROWS), rtol=1e-5, atol=1e-5)
    of_arrays = Predictor(bundle)({"history": ROWS["history"].to_list()})["scores"]
    np.testing.assert_allclose(of_arrays, expected(ROWS), rtol=1e-5, atol=1e-5)
    (tmp_path / "rows").mkdir()
    ROWS.write_parquet(tmp_path / "rows" / "0.parquet")
    new = sum(items.count("new") for items in ROWS["history"].to_list())
    assert predict_folder(bundle, tmp_path / "rows", tmp_path / "scores").unknown == {"history": new}
    np.testing.assert_array_equal(pl.read_parquet(tmp_path / "scores" / "0.parquet")["scores"], made["scores"])


def test_numbers_in_lists_are_items_by_their_text(bundle: Path) -> None:
    rows = pl.DataFrame({"history": [[7, 8, 7], None, []]}, schema={"history": pl.List(pl.Int64)})
    texts = pl.DataFrame({"history": [["7", "8", "7"], [], []]}, schema={"history": pl.List(pl.String)})
    np.testing.assert_allclose(Predictor(bundle)(rows)["scores"].to_numpy(), expected(texts), rtol=1e-5)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_gives_a_row_for_each_user(bundle: Path, tmp_path: Path, suffix: str, stream: bool) -> None:
    log = ROWS.explode("history").drop_nulls().rename({"row": "who", "history": "what"})
    log = log.with_columns(when=pl.int_range(pl.len()).over("who")).sample(fraction=1, shuffle=True, seed=0)
    getattr(log, f"write_{suffix}")(tmp_path / f"log.{suffix}")
    reading = DataSettings(stream=stream)
    made = predict(bundle, tmp_path / f"log.{suffix}", tmp_path / "scores.parquet", reading=reading)
    scores, some = pl.read_parquet(tmp_path / "scores.parquet"), ROWS.filter(pl.col("history").list.len() > 0)
    assert (made.columns, scores["who"].to_list()) == (("who", "scores"), some["row"].to_list())
    np.testing.assert_allclose(scores["scores"].to_numpy(), expected(some), rtol=1e-5, atol=1e-5)
    (tmp_path / "logs").mkdir()
    (tmp_path / f"log.{suffix}").rename(tmp_path / "logs" / f"0.{suffix}")
    with pytest.raises(UsageError, match=r"is a log, and a user may have rows in several files"):
        predict_folder(bundle, tmp_path / "logs", tmp_path / "out")


def test_what_is_no_history_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    for rows, said in (
        (ROWS.rename({"history": "items"}), r"no column 'history'"),
        (
            ROWS.with_columns(history=pl.lit("tea")),
            r"'history' of .* contains String, but the model expects lists of items",
        ),
        (ROWS.select(history=pl.concat_list(pl.col("history").implode())), "contains List"),
    ):
        rows.write_parquet(tmp_path / "rows.parquet")
        for score in (
            lambda rows=rows: Predictor(bundle)(rows),
            lambda: predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet"),
        ):
            with pytest.raises(DataError, match=said):
                score()
    ROWS.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match="list in each row, which CSV does not support"):
        predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.csv")


def test_unknown_items_alone_are_refused(bundle: Path, tmp_path: Path) -> None:
    pl.DataFrame({"history": [["x", "y"]] * 30}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"60 of 60 values of 'what' in .* unknown"):
        predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
