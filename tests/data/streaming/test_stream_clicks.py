"""Streamed rows are those in memory: the same splits, ids, numbers, labels, notes, encoders and errors."""

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

from recprune_export.data.clicks import ClickData, load_clicks
from recprune_export.data.schema.schema import MultiValued, Schema, Split, VectorColumn
from recprune_export.data.streaming import distinct_values, row_sides
from recprune_export.errors import DataError, RecpruneError
from recprune_export.settings import DataSettings

SCHEMA = Schema(
    labels=("y",), categorical=("user",), numeric=("age",), multi_valued=(MultiValued("tags", "|", 3),),
    vectors=(VectorColumn("picture", 2),),
)  # fmt: skip
LABELS: list[tuple[str, Any]] = [
    ("clicks", [0, 1]), ("signs", [-1, 1]), ("gaps", [0, 1, None]), ("words", ["yes", "no", "", None]), ("stars", [1, 2, 5]),
    ("prices", [0.5, 99.25, 1e6, -3.0, None]), ("numbers as text", ["0", "1", "NA"]), ("nan", [0.0, 1.0, float("nan")]),
]  # fmt: skip


def make_frame(random: np.random.Generator, count: int, labels: list[Any]) -> pl.DataFrame:
    users = [None if value == 0 else f"u{value}" for value in random.integers(0, 12, count)]
    return pl.DataFrame(
        {
            "user": pl.Series(users, dtype=pl.String),
            "age": [None if value < 0.1 else round(float(value), 2) for value in random.random(count)],
            "tags": ["|".join(f"t{v}" for v in random.integers(0, 5, random.integers(0, 5))) for _ in range(count)],
            "picture": random.normal(size=(count, 2)).tolist(),
            "y": [labels[index] for index in random.integers(0, len(labels), count)],
            "y2": random.integers(0, 2, count).tolist(),
            "w": random.integers(0, 3, count).tolist(),
            "when": [f"2024-01-{day:02}" for day in random.integers(1, 29, count)],
            "at": random.integers(0, 50, count).tolist(),
            "part": [["train", " Valid", "TEST"][side] for side in random.integers(0, 3, count)],
        },
        strict=False,
    )


def write(folder: Path, frame: pl.DataFrame, files: int) -> None:
    for number in range(files):
        frame[number::files].write_parquet(folder / f"part-{number}.parquet", row_group_size=17)


def load(folder: Path, schema: Schema, *, stream: bool, encoder: Any = None, group: str | None = None) -> ClickData:
    return load_clicks(folder, schema, encoder, group=group, reading=DataSettings(stream=stream))


def outcome(function: Callable[[], ClickData]) -> ClickData | str:
    try:
        return function()
    except RecpruneError as error:
        return f"{type(error).__name__}: {error}"


def assert_same(one: ClickData | str, other: ClickData | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    assert (one.notes, one.split_description, one.sizes) == (other.notes, other.split_description, other.sizes)
    first, second = one.encoder.to_dict(), other.encoder.to_dict()
    for key in ("means", "stds"):
        assert first.pop(key) == pytest.approx(second.pop(key), rel=1e-12)
    assert first == second
    for label, values in one.label_values.items():
        found = other.label_values[label]
        assert replace(values, variance=0.0) == replace(found, variance=0.0)
        assert values.variance == pytest.approx(found.variance, rel=1e-9)
    for name in ("train", "valid", "test"):
        side, expected = getattr(one, name), getattr(other, name)
        for seed in (None, 3):
            for batch, whole in zip(side.batches(50, seed), expected.batches(50, seed), strict=True):
                for arrays, wanted in ((batch.inputs, whole.inputs), (batch.labels, whole.labels)):
                    assert arrays.keys() == wanted.keys()
                    for key, values in arrays.items():
                        assert values.dtype == wanted[key].dtype
                        np.testing.assert_allclose(values, wanted[key], rtol=1e-6, atol=1e-7)
                np.testing.assert_array_equal(batch.weights, whole.weights)
                np.testing.assert_array_equal(batch.groups, whole.groups)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**20),
    count=st.integers(20, 400),
    files=st.integers(1, 4),
    labels=st.sampled_from(LABELS),
    split=st.sampled_from(
        [
            Split(),
            Split(seed=5),
            Split(column="part"),
            Split(time="when"),
            Split(time="at"),
            Split(user="user"),
            Split(user="at"),
        ]
    ),
    weight=st.sampled_from([None, "w"]),
    group=st.sampled_from([None, "user", "at"]),
    several=st.booleans(),
    missing_label=st.sampled_from([None, "1", "no", "-3"]),
    dirt=st.sampled_from([None, None, None, "inf label", "inf number", "split", "weight", "time", "classes"]),
)
def test_streamed_rows_equal_those_in_memory(
    seed: int, count: int, files: int, labels: tuple[str, list[Any]], split: Split, weight: str | None, group: str | None,
    several: bool, missing_label: str | None, dirt: str | None,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    frame = make_frame(random, count, labels[1])
    frame = spoil(frame, dirt, random)
    schema = replace(
        SCHEMA, split=split, weight=weight, missing_label=missing_label, labels=("y", "y2") if several else ("y",)
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, frame, files)
        in_memory = outcome(lambda: load(folder, schema, stream=False, group=group))
        streamed = outcome(lambda: load(folder, schema, stream=True, group=group))
        assert_same(streamed, in_memory)
        if not isinstance(in_memory, str):
            fitted = in_memory.encoder
            assert_same(
                outcome(lambda: load(folder, fitted.schema, stream=True, encoder=fitted)),
                outcome(lambda: load(folder, fitted.schema, stream=False, encoder=fitted)),
            )


def spoil(frame: pl.DataFrame, dirt: str | None, random: np.random.Generator) -> pl.DataFrame:
    """Return the rows with some values that are refused."""
    rows = pl.int_range(len(frame), eager=True).is_in(random.integers(0, len(frame), 3).tolist())
    changes: dict[str | None, pl.Expr] = {
        "inf label": pl.when(rows).then(pl.lit(np.inf)).otherwise(pl.col("y2")).alias("y"),
        "inf number": pl.when(rows).then(pl.lit(np.inf)).otherwise(pl.col("age")).alias("age"),
        "split": pl.when(rows).then(pl.lit("trian")).otherwise(pl.col("part")).alias("part"),
        "weight": pl.when(rows).then(pl.lit(-1)).otherwise(pl.col("w")).alias("w"),
        "time": pl.when(rows).then(pl.lit("soon")).otherwise(pl.col("when")).alias("when"),
        "classes": pl.when(rows).then(pl.lit("buy")).otherwise(pl.lit("view")).alias("y"),
    }
    return frame.with_columns(changes[dirt]) if dirt in changes else frame


def test_chunks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = make_frame(np.random.default_rng(0), 900, [0, 1, None])
    write(tmp_path, frame, 3)
    whole = load(tmp_path, SCHEMA, stream=False, group="at")
    monkeypatch.setattr(row_sides, "CHUNK_ROWS", 61)
    monkeypatch.setattr(row_sides, "_FILE_ROWS", 100)
    assert_same(load(tmp_path, SCHEMA, stream=True, group="at"), whole)


@pytest.mark.parametrize("kind", ["integers", "times", "floats"])
def test_borders_of_very_many_times_are_the_nearest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(distinct_values, "_MANY_TIMES", 10)
    monkeypatch.setattr(distinct_values, "_BUCKETS", 16)
    for seed in range(8):
        random = np.random.default_rng(seed)
        frame = make_frame(random, 600, [0, 1])
        values = np.sort((random.random(600) ** 3 * 1e5).astype(int))
        times = {
            "integers": pl.Series("at", values),
            "times": pl.Series("at", values * 1_000_000).cast(pl.Datetime("us")),
            "floats": pl.Series("at", values / 7 - 3),
        }[kind]
        write(tmp_path, frame.with_columns(times.shuffle(seed=seed)), 2)
        schema = replace(SCHEMA, split=Split(time="at"))
        assert_same(load(tmp_path, schema, stream=True), load(tmp_path, schema, stream=False))


def test_csv_files_are_streamed_too(tmp_path: Path) -> None:
    frame = make_frame(np.random.default_rng(0), 300, [0, 1]).drop("picture")
    frame[:200].write_csv(tmp_path / "1.csv")
    frame[200:].write_csv(tmp_path / "2.csv")
    schema = replace(SCHEMA, vectors=())
    assert_same(load(tmp_path, schema, stream=True), load(tmp_path, schema, stream=False))


def test_many_unknown_ids_are_said_alike(tmp_path: Path) -> None:
    frame = make_frame(np.random.default_rng(0), 300, [0, 1])
    write(tmp_path, frame, 1)
    encoder = load(tmp_path, SCHEMA, stream=False).encoder
    write(tmp_path, frame.with_columns(pl.lit("new").alias("user")), 1)
    errors = []
    for stream in (True, False):
        with pytest.raises(DataError, match="unknown to the model") as error:
            load(tmp_path, encoder.schema, stream=stream, encoder=encoder)
        errors.append(str(error.value))
    assert errors[0] == errors[1]
