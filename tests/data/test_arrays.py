from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import ArraySpec, load_arrays
from recprune_export.errors import DataError

SPECS = [ArraySpec("user", "int64", (), ((0, 9),)), ArraySpec("x", "float32", (3,), ((0, 4), None, None))]


def arrays(count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(5, size=count), rng.normal(size=count), rng.normal(size=count)], 1)
    return {"user": rng.integers(10, size=count), "x": x, "click": rng.integers(2, size=count)}


def test_columns_and_arrays_give_the_same_rows(tmp_path: Path) -> None:
    values = arrays()
    np.savez(tmp_path / "rows.npz", **values)
    lists = pl.DataFrame({"user": values["user"], "x": values["x"].tolist(), "click": values["click"]})
    lists.write_parquet(tmp_path / "rows.parquet")
    spread = {"user": values["user"], "click": values["click"]} | {f"x_{i}": values["x"][:, i] for i in range(3)}
    pl.DataFrame(spread).write_csv(tmp_path / "rows.csv")
    loaded = [load_arrays(tmp_path / f"rows.{s}", SPECS, ["click"], seed=0) for s in ("npz", "parquet", "csv")]
    loaded.append(load_arrays(values, SPECS, ["click"], seed=0))
    for data in loaded:
        assert data.train.inputs["x"].dtype == np.float32
        np.testing.assert_allclose(data.train.inputs["x"], loaded[0].train.inputs["x"])
        np.testing.assert_array_equal(data.test.labels["click"], loaded[0].test.labels["click"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user": np.full(60, 10)}, r"'user' in .* holds the id 10 at row 0, but the table has ids 0 to 9"),
        ({"x": np.full((60, 3), 7.0)}, "'x', column 0, in .* the id 7"),
        ({"x": np.zeros((60, 2))}, r"rows of shape \[2\]; the model takes \[3\]"),
        ({"x": np.full((60, 3), np.nan)}, "NaN"),
        ({"user": np.zeros(60)}, "holds float64; the model takes int64"),
        ({"user": np.zeros(59, dtype=np.int64)}, "same number of rows"),
        ({"click": np.zeros((60, 2))}, "one number for each row"),
        ({"click": np.full(60, "2026-11-28", dtype="datetime64[D]")}, "holds datetime64.* one number for each row"),
        ({"click": np.r_[np.zeros(58), np.inf, -np.inf]}, "holds infinity in 2 rows, the first is row 58"),
        ({"click": np.full(60, np.nan)}, "missing in all 60 rows"),
        ({"split": np.array(["train"] * 59 + ["other"])}, "none of train, valid, test"),
        ({"split": np.array(["train"] * 60)}, "too few"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "rows.npz", **arrays() | change)
    with pytest.raises(DataError, match=said):
        load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    values = arrays()
    del values["x"]
    np.savez(tmp_path / "rows.npz", **values)
    with pytest.raises(DataError, match="has no column 'x', which the model takes"):
        load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", user=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="plain NumPy arrays"):
        load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)


def test_a_mistyped_label_is_answered_with_the_columns_of_the_file(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1], "x": [[0.0] * 3], "Click": [1]}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"no column 'click', .* label; its columns are user, x, Click; .*'Click'"):
        load_arrays(tmp_path / "rows.parquet", SPECS, ["click"], seed=0)
