"""Streamed arrays of third-party models are those in memory: the same splits, arrays, labels, notes and errors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recprune_export.data import ArrayData, ArraySpec, load_arrays
from recprune_export.data.records.streamed_rows import StreamedRows
from recprune_export.data.streaming import row_sides, stream_arrays
from recprune_export.errors import RecpruneError
from recprune_export.settings import DataSettings, LabelSettings, RowSettings, SplitSettings

SPECS = (
    ArraySpec("user", "int64", (), ((0, 9),)),
    ArraySpec("x", "float32", (3,), ((0, 4), None, None)),
    ArraySpec("y", "float32", (2,)),
    ArraySpec("tags", "int64", (), ((0, 9),), jagged="tags"),
    ArraySpec("shares", "float32", (), jagged="tags"),
    ArraySpec("old", "bool", ()),
)
LABELS: list[list[Any]] = [
    [0, 1], [-1, 1], [0, 1, None], ["yes", "no", None], [0.5, 9.25, None], [True, False], [True, False, None],
]  # fmt: skip
ROWS = 300
DIRT = (
    "id", "fraction", "no id", "text", "inf", "inf in list", "NaN", "NaN answered", "longer", "uneven", "no list", "no element",
    "negative element", "unequal lists", "infinite label", "split", "weight", "element outside",
)  # fmt: skip


def make_frame(random: np.random.Generator, labels: list[Any]) -> pl.DataFrame:
    lengths = random.integers(0, 5, ROWS)
    return pl.DataFrame(
        {
            "user": random.integers(0, 10, ROWS).tolist(),
            "x": np.stack([random.integers(0, 5, ROWS), *random.normal(size=(2, ROWS))], 1).tolist(),
            "y_0": random.normal(size=ROWS).tolist(),
            "y_1": random.integers(0, 9, ROWS).tolist(),
            "tags": [random.integers(0, 10, length).tolist() for length in lengths],
            "shares": [random.random(length).tolist() for length in lengths],
            "old": random.integers(0, 2, ROWS).astype(bool).tolist(),
            "label": [labels[index] for index in random.integers(0, len(labels), ROWS)],
            "other": random.integers(0, 2, ROWS).tolist(),
            "w": random.integers(0, 3, ROWS).tolist(),
            "at": random.integers(0, 50, ROWS).tolist(),
            "part": [["train", " Valid", "TEST"][side] for side in random.integers(0, 3, ROWS)],
            "fold": ["a"] * ROWS,
        },
        schema_overrides={"tags": pl.List(pl.Int64), "shares": pl.List(pl.Float64)},
        strict=False,
    )


def spoil(frame: pl.DataFrame, dirt: str, random: np.random.Generator) -> pl.DataFrame:
    """Return the rows with some values that are refused."""
    rows = random.choice(ROWS, 4, replace=False).tolist()
    changes: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "id": ("user", lambda v: 70 + v),
        "fraction": ("user", lambda v: v + 0.5),
        "no id": ("user", lambda v: None),
        "text": ("user", lambda v: f"u{v}"),
        "inf": ("x", lambda v: [v[0], float("inf"), v[2]]),
        "inf in list": ("shares", lambda v: [float("inf")] * len(v)),
        "NaN": ("y_0", lambda v: float("nan")),
        "NaN answered": ("x", lambda v: [v[0], v[1], float("nan")]),
        "longer": ("tags", lambda v: [1] * 9),
        "uneven": ("tags", lambda v: [*v, 3]),
        "no list": ("tags", lambda v: None),
        "no element": ("tags", lambda v: [None]),
        "negative element": ("tags", lambda v: [-len(v) - 1]),
        "unequal lists": ("x", lambda v: v[:2]),
        "infinite label": ("label", lambda v: float("inf")),
        "split": ("part", lambda v: "trian"),
        "weight": ("w", lambda v: -1),
        "element outside": ("tags", lambda v: [12 + n for n, _ in enumerate(v)]),
    }
    name, change = changes[dirt]
    values = frame[name].to_list()
    for row in rows:
        values[row] = change(values[row])
    if dirt == "text":
        values = [None if value is None else str(value) for value in values]
    return frame.with_columns(pl.Series(name, values, strict=False))


def load(folder: Path, specs: tuple[ArraySpec, ...], labels: list[str], rows: RowSettings, stream: bool) -> ArrayData:
    return load_arrays(
        folder, specs, labels, 0, replace(rows, reading=DataSettings(stream=stream)), has_answer=answers_third_number
    )


def answers_third_number(request: Any) -> np.ndarray:
    answered: np.ndarray = ~np.isnan(request["y"]).any(axis=1)
    return answered


def outcome(function: Callable[[], ArrayData]) -> ArrayData | str:
    try:
        return function()
    except RecpruneError as error:
        return f"{type(error).__name__}: {error}"


def assert_same(streamed: ArrayData | str, whole: ArrayData | str) -> None:
    if isinstance(streamed, str) or isinstance(whole, str):
        assert streamed == whole
        return
    assert isinstance(streamed.train, StreamedRows)
    assert not isinstance(whole.train, StreamedRows)
    for name in ("notes", "split_description", "sizes", "has_split_column"):
        assert getattr(streamed, name) == getattr(whole, name)
    for label, values in whole.label_values.items():
        found = streamed.label_values[label]
        assert replace(values, variance=0.0) == replace(found, variance=0.0)
        assert values.variance == pytest.approx(found.variance, rel=1e-9)
    for side in ("train", "valid", "test"):
        batches = (getattr(data, side).batches(50, 3) for data in (streamed, whole))
        for batch, wanted in zip(*batches, strict=True):
            for arrays, expected in ((batch.inputs, wanted.inputs), (batch.labels, wanted.labels)):
                assert arrays.keys() == expected.keys()
                for key, values in arrays.items():
                    assert values.dtype == expected[key].dtype
                    np.testing.assert_array_equal(values, expected[key])
            np.testing.assert_array_equal(batch.weights, wanted.weights)
            np.testing.assert_array_equal(batch.groups, wanted.groups)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**20),
    dirt=st.lists(st.sampled_from(DIRT), max_size=2),
    label=st.sampled_from(LABELS),
    several=st.sampled_from([0, 1, 2]),
    split=st.sampled_from([{}, {"split": "part"}, {"split_by_time": "at"}, {"split_by_user": "user"}]),
    weight=st.sampled_from([None, "w"]),
    group=st.sampled_from([None, "user"]),
    width=st.sampled_from([None, 8]),
    missing=st.sampled_from([None, "1", "no"]),
)
def test_streamed_arrays_equal_those_in_memory(
    seed: int, dirt: list[str], label: list[Any], several: int, split: dict[str, str], weight: str | None, group: str | None,
    width: int | None, missing: str | None,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    frame = make_frame(random, label)
    for kind in dict.fromkeys(dirt):
        if kind == "unequal lists" and "inf" in dirt:
            continue
        frame = spoil(frame, kind, random)
    specs = tuple(replace(spec, width=width) if spec.jagged else spec for spec in SPECS)
    rows = RowSettings(LabelSettings(weight, missing), SplitSettings(**split), group)
    labels = ["label", "other"][:several]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for number in range(3):
            frame[number * 100 : (number + 1) * 100].write_parquet(folder / f"part-{number}.parquet", row_group_size=17)
        patch.setattr(row_sides, "CHUNK_ROWS", 64)
        patch.setattr(stream_arrays, "CHUNK_ROWS", 64)
        assert_same(
            outcome(lambda: load(folder, specs, labels, rows, stream=True)),
            outcome(lambda: load(folder, specs, labels, rows, stream=False)),
        )


def test_csv_and_arrays_of_one_length_are_streamed_too(tmp_path: Path) -> None:
    frame = make_frame(np.random.default_rng(0), [0, 1]).select("user", "y_0", "y_1", "label", "part")
    frame.write_csv(tmp_path / "rows.csv")
    specs, rows = (SPECS[0], SPECS[2]), RowSettings()
    assert_same(*(load(tmp_path / "rows.csv", specs, ["label"], rows, stream) for stream in (True, False)))


def test_a_label_of_lists_is_judged_in_memory(tmp_path: Path) -> None:
    frame = make_frame(np.random.default_rng(0), [0, 1]).with_columns(label=pl.concat_list("other"))
    frame.write_parquet(tmp_path / "rows.parquet")
    loaded = load(tmp_path / "rows.parquet", SPECS, ["label"], RowSettings(), stream=True)
    assert not isinstance(loaded.train, StreamedRows)
