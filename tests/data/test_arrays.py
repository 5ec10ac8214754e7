from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import ArraySpec, SplitSizes, load_arrays
from recprune_export.data.array_checks import check_input_array
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import DataSettings, RowSettings, SplitSettings

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
        (
            {"user": np.full(60, 10)},
            r"'user' in .* contains the id 10 at row 0 \(the first of 60 such rows\), but the table has ids 0 to 9: replace it by the id",
        ),
        ({"x": np.full((60, 3), 7.0)}, "'x', column 0, in .* the id 7"),
        ({"x": np.zeros((60, 2))}, r"rows of shape \[2\]; the model expects \[3\]"),
        (
            {"x": np.full(60, "[1.5, 2.0, 3.0]")},  # as pandas writes lists into CSV
            r"'x' in .* contains text such as '\[1.5, 2.0, 3.0\]'; the model expects rows of \[3\] numbers: give lists of numbers "
            "in Parquet, or the columns x_0 to x_2",
        ),
        ({"x": np.full((60, 3), np.nan)}, "NaN"),
        ({"user": np.full(60, 0.5)}, "contains float64; the model expects int64"),
        ({"user": np.zeros(59, dtype=np.int64)}, "same number of rows"),
        ({"click": np.zeros((60, 2))}, "one number for each row"),
        ({"click": np.full(60, "2026-11-28", dtype="datetime64[D]")}, "contains datetime64.* one number for each row"),
        ({"click": np.r_[np.zeros(58), np.inf, -np.inf]}, "contains infinity in 2 rows, the first is row 58"),
        ({"click": np.full(60, np.nan)}, "missing in all 60 rows"),
        (
            {"split": np.array(["train"] * 59 + ["other"])},
            "contains 'other' in row 59; every row needs train, valid or test",
        ),
        ({"split": np.array(["train"] * 60)}, "train 60, valid 0, test 0"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "rows.npz", **arrays() | change)
    with pytest.raises(DataError, match=said):
        load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ([[0.5], [1.0, 2.0]] * 30, "lists in column 'x' have 1 to 2 elements.*fill and cut the lists as in training"),
        ([None] * 60, "column 'x' is empty in all rows"),
    ],
)
def test_lists_of_different_lengths_say_what_to_do(
    tmp_path: Path, lists: list[object], said: str, stream: bool
) -> None:
    values = {**arrays(), "x": pl.Series(lists, dtype=pl.List(pl.Float64))}
    pl.DataFrame(values).write_parquet(tmp_path / "rows.parquet")
    settings = RowSettings(reading=DataSettings(stream=stream))
    with pytest.raises(DataError, match=said):
        load_arrays(tmp_path / "rows.parquet", SPECS, ["click"], seed=0, settings=settings)


def test_whole_numbers_written_as_floats_are_ids(tmp_path: Path) -> None:
    values = arrays()
    np.savez(tmp_path / "rows.npz", **values | {"user": values["user"].astype(float)})
    loaded = load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)
    np.testing.assert_array_equal(
        loaded.test.inputs["user"], load_arrays(values, SPECS, ["click"], seed=0).test.inputs["user"]
    )
    assert loaded.test.inputs["user"].dtype == np.int64


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    values = arrays()
    del values["x"]
    np.savez(tmp_path / "rows.npz", **values)
    with pytest.raises(
        DataError,
        match=r"no column 'x', an input of the model \(a column of lists, or the columns x_0 to x_2\);",
    ):
        load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", user=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="plain NumPy arrays"):
        load_arrays(tmp_path / "rows.npz", SPECS, ["click"], seed=0)


def write_rows(tmp_path: Path, **columns: pl.Expr) -> Path:
    values = arrays()
    frame = pl.DataFrame({"user": values["user"], "x": values["x"].tolist(), "click": values["click"]})
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "rows.parquet"
    frame.with_columns(**columns).write_parquet(path)
    return path


def leave_out(expression: pl.Expr) -> pl.Expr:
    """Leave out the value in row 3 and in row 7."""
    return pl.when(pl.int_range(pl.len()).is_in([3, 7])).then(None).otherwise(expression)


@pytest.mark.parametrize(
    ("column", "expression"),
    [
        ("user", leave_out(pl.col("user"))),
        ("user", leave_out(pl.col("user").cast(pl.UInt16))),
        ("click", leave_out(pl.col("click"))),
        ("click", leave_out(pl.col("click") == 1)),
    ],
)
def test_missing_values_are_counted(tmp_path: Path, column: str, expression: pl.Expr) -> None:
    path = write_rows(tmp_path, **{column: expression})
    frame = pl.read_parquet(path)
    objects = {c: np.array(frame[c].to_list(), dtype=object) if c == column else frame[c] for c in frame.columns}
    masked = np.ma.array(frame[column].fill_null(0).to_numpy(), mask=frame[column].is_null().to_numpy())
    for data in (path, frame, objects, {**objects, column: masked}):
        if column == "click":
            loaded = load_arrays(data, SPECS, ["click"], seed=0)  # type: ignore[arg-type]
            assert loaded.sizes.train + loaded.sizes.valid + loaded.sizes.test == 58
            assert any("2 of" in note and "'click'" in note for note in loaded.notes), loaded.notes
            continue
        with pytest.raises(
            DataError, match=r"'user' in .* is missing in 2 rows \(the first is row 3\): fill the missing"
        ):
            load_arrays(data, SPECS, ["click"], seed=0)  # type: ignore[arg-type]


def test_lists_without_a_number_are_missing(tmp_path: Path) -> None:
    specs = [ArraySpec("ids", "int64", (2,))]
    for rows in ([[1, 2], None, [3, 4]] * 20, [[1, 2], [5, None], [3, 4]] * 20):
        pl.DataFrame({"ids": rows, "click": [0, 1, 1] * 20}).write_parquet(tmp_path / "lists.parquet")
        with pytest.raises(DataError, match=r"'ids' in .* is missing in 20 rows \(the first is row 1\)"):
            load_arrays(tmp_path / "lists.parquet", specs, ["click"], seed=0)


def test_a_missing_name_is_that_of_an_input_or_of_a_label_and_the_columns_of_the_file_are_listed(
    tmp_path: Path,
) -> None:
    path = write_rows(tmp_path, other=pl.lit(1))
    with pytest.raises(DataError, match=r"'Click', the label given with --label; .*did you mean 'click'\?") as error:
        load_arrays(path, SPECS, ["Click"], seed=0)
    assert "its columns are user, x, click, other;" in str(error.value)
    specs = [ArraySpec("userid", "int64", ()), *SPECS]
    for data in (path, pl.read_parquet(path), dict(arrays())):
        with pytest.raises(DataError, match=r"'userid', an input of the model; .*did you mean 'user'\?"):
            load_arrays(data, specs, ["click"], seed=0)  # type: ignore[arg-type]


def test_text_is_named_as_such(tmp_path: Path) -> None:
    path = write_rows(tmp_path, user=pl.lit("u7"))
    with pytest.raises(DataError, match="contains text such as 'u7'; the model expects int64: write ids from 0 to 9"):
        load_arrays(path, SPECS, ["click"], seed=0)


@pytest.mark.parametrize(
    ("settings", "description"),
    [
        (SplitSettings(), "by the column 'Fold'"),
        (SplitSettings("words"), "by the column 'words'"),
        (SplitSettings(split_by_time="when"), "by time: valid from 'when' 48 on"),
        (SplitSettings(split_by_user="user"), "by user: 'user' has 8 train, 1 valid and 1 test users"),
    ],
)
def test_rows_are_split_by_the_column_that_is_named(tmp_path: Path, settings: SplitSettings, description: str) -> None:
    words = pl.Series(["train"] * 40 + ["valid"] * 10 + ["test"] * 10)
    path = write_rows(tmp_path, Fold=words.reverse(), words=words, when=pl.int_range(60))
    frame = pl.read_parquet(path)
    in_memory = {c: frame[c].to_numpy() for c in frame.columns} | {"x": arrays()["x"]}
    for data in (path, frame, in_memory):
        loaded = load_arrays(data, SPECS, ["click"], 0, RowSettings(split=settings))  # type: ignore[arg-type]
        assert loaded.split_description.startswith(description)
        assert loaded.has_split_column
        assert loaded.sizes.train + loaded.sizes.valid + loaded.sizes.test == 60
    if settings.split == "words":
        assert loaded.sizes == SplitSizes(40, 10, 10, description)


def test_a_split_column_with_gaps_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path, split=leave_out(pl.lit("train")))
    subset = write_rows(tmp_path / "other", subset=leave_out(pl.lit("train")))
    for data, name in ((path, "split"), (subset, "subset")):
        with pytest.raises(DataError, match=rf"'{name}' of .* is missing in 2 rows \(the first is row 3\)"):
            load_arrays(data, SPECS, ["click"], seed=0)
    with pytest.raises(DataError, match=r"no column 'spilt', given to split the rows; .*did you mean 'split'"):
        load_arrays(path, SPECS, ["click"], 0, RowSettings(split=SplitSettings("spilt")))


def test_columns_named_like_a_split_that_are_none_are_named_in_a_note(tmp_path: Path) -> None:
    words = pl.Series(np.resize(["train", "valid", "test"], 60))
    loaded = load_arrays(write_rows(tmp_path, fold=pl.lit(1), Split=words), SPECS, ["click"], seed=0)
    assert loaded.split_description == "by the column 'Split'"
    assert loaded.notes == ("'fold' is not used as a split: it does not contain train, valid and test.",)
    loaded = load_arrays(write_rows(tmp_path, fold=pl.lit(1)), SPECS, ["click"], seed=0)
    assert loaded.split_description == "at random with seed 0"
    assert len(loaded.notes) == 1
    with pytest.raises(UsageError, match=r"'subset' and 'Split' .* choose one with --split"):
        load_arrays(write_rows(tmp_path, subset=words, Split=words), SPECS, ["click"], seed=0)


def test_columns_of_several_lengths_are_refused() -> None:
    spread = {f"x_{n}": arrays()["x"][: 60 - n, n] for n in range(3)}
    with pytest.raises(DataError, match="x_0 to x_2 have different shapes"):
        load_arrays({**spread, "user": arrays()["user"], "click": arrays()["click"]}, SPECS, ["click"], seed=0)
    with pytest.raises(DataError, match="same number of rows, at least one"):
        load_arrays(arrays() | {"click": np.array(1)}, SPECS, ["click"], seed=0)


def test_other_objects_are_refused() -> None:
    with pytest.raises(UsageError, match="of type list: give the path of a file, or arrays by name"):
        load_arrays([1, 2], SPECS, ["click"], seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        ArraySpec("x", "float32", (3,)),
        ArraySpec("x", "int64", (), ((0, 4),)),
        ArraySpec("x", "int64", (2,), ((0, 4), (0, 9))),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_no_rows_are_no_fault(spec: ArraySpec, dtype: type) -> None:
    checked = check_input_array("rows", spec, np.zeros((0, *spec.shape), dtype))
    assert checked.shape == (0, *spec.shape)
    assert checked.dtype == spec.dtype
