from pathlib import Path

import polars as pl
import pytest

from recprune_export.data import generate_clicks, generate_sequences
from recprune_export.errors import UsageError
from tests.full_disk import file_size_limit


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        generate_clicks(tmp_path / f"{name}.csv", rows=200, seed=3)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_ids_follow_a_power_law(clicks_file: Path) -> None:
    counts = pl.read_parquet(clicks_file)["item"].value_counts()["count"].sort(descending=True)
    assert counts[0] > 10 * counts.median()  # type: ignore[operator]


def test_a_log_has_an_unbroken_order_for_each_user(sequences_file: Path) -> None:
    log = pl.read_csv(sequences_file)
    lengths = log.group_by("user").agg(pl.len(), pl.col("position").max(), pl.col("position").n_unique().alias("n"))
    assert (lengths["len"] == lengths["position"] + 1).all()
    assert (lengths["len"] == lengths["n"]).all()


@pytest.mark.parametrize("generate", [generate_clicks, generate_sequences])
def test_another_ending_is_refused(tmp_path: Path, generate: object) -> None:
    with pytest.raises(UsageError, match=r"\.parquet or \.csv"):
        generate(tmp_path / "rows.json", 100)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(UsageError, match=rf"{name} cannot be written: File too large\."), file_size_limit(8_000):
        generate_clicks(path, rows=2_000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
