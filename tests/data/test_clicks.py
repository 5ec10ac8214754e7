from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recprune_export.data import NUMERIC, MultiValued, Schema, SplitSizes, load_clicks, scan
from recprune_export.data.clicks import check_types
from recprune_export.data.schema import Split
from recprune_export.data.schema.schema import VectorColumn
from recprune_export.errors import DataError

SCHEMA = Schema(labels=("click",), categorical=("shop",), numeric=("age",))


def frame(count: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "shop": rng.choice(["a", "b"], size=count),
            "age": rng.normal(size=count),
            "click": rng.integers(2, size=count),
        }
    )


def test_a_seeded_split_is_the_same_each_time_and_covers_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    frame().write_csv(path)
    first, again = load_clicks(path, SCHEMA), load_clicks(path, SCHEMA)
    np.testing.assert_array_equal(first.test.inputs["numeric"], again.test.inputs["numeric"])
    assert len(first.train) + len(first.valid) + len(first.test) == 300
    other = load_clicks(path, Schema(**{**vars(SCHEMA), "split": Split(seed=5)}))
    assert not np.array_equal(other.train.inputs["numeric"], first.train.inputs["numeric"])


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        (Split("side"), SplitSizes(200, 60, 40, "by the column 'side'")),
        (
            Split(time="day"),
            SplitSizes(240, 30, 30, "by time: valid from 'day' 24 on, test from 27 on, equal times in the same split"),
        ),
        (Split(user="person"), SplitSizes(240, 30, 30, "by user: 'person' has 8 train, 1 valid and 1 test users")),
    ],
)
def test_rows_are_split_by_words_time_or_user(tmp_path: Path, split: Split, sizes: SplitSizes) -> None:
    rows = pl.int_range(pl.len())
    side = pl.Series(["train"] * 200 + ["Validation"] * 60 + ["test "] * 40)
    path = tmp_path / "rows.csv"
    frame().with_columns(side=side, day=(rows // 10).cast(pl.String), person=rows % 10).write_csv(path)
    schema = Schema(**{**vars(SCHEMA), "split": split})
    assert load_clicks(path, schema).sizes == sizes
    assert Schema.from_dict(schema.to_dict()) == schema


SIDES = st.lists(st.sampled_from(["train", "valid", "test"]), min_size=57, max_size=57)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIDES, st.integers(0, 1000))
def test_no_row_of_valid_or_test_contributes_to_the_encoder(tmp_path: Path, sides: list[str], seed: int) -> None:
    sides = ["train", "valid", "test", *sides]
    chance = np.random.default_rng(seed)
    count, held_out = len(sides), pl.col("side") != "train"
    rows = frame(count).with_columns(
        tags=pl.Series(chance.choice(["x|y", "y", "z|x"], size=count)), side=pl.Series(sides)
    )
    columns = {
        "shop": pl.Series(chance.choice(["a", "new", "other"], size=count)),
        "tags": pl.Series(chance.choice(["x", "fresh|y"], size=count)),
        "age": pl.Series(chance.normal(50, 100, size=count)),
    }
    changed = rows.with_columns(
        pl.when(held_out).then(values).otherwise(pl.col(name)).alias(name) for name, values in columns.items()
    )
    schema = Schema(("click",), ("shop",), ("age",), (MultiValued("tags", "|", 2),), split=Split("side"))
    encoders = []
    for table in (rows, changed):
        table.write_parquet(tmp_path / "rows.parquet")
        data = load_clicks(tmp_path / "rows.parquet", schema)
        assert (len(data.train), len(data.valid), len(data.test)) == tuple(map(sides.count, ("train", "valid", "test")))
        encoders.append(data.encoder.to_dict())
    assert encoders[0] == encoders[1]


def test_a_column_without_a_value_is_missing_in_every_row_whatever_its_role(tmp_path: Path) -> None:
    rows = frame(40).with_columns(
        pl.Series("genres", [["a"], ["b", "a"]] * 20), pl.Series("vector", [[0.5, 1.0], [1.5, 2.0]] * 20)
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    schema = Schema(
        ("click",), ("shop",), ("age",), (MultiValued("genres", None, 2),), vectors=(VectorColumn("vector", 2),)
    )
    encoder = load_clicks(tmp_path / "rows.parquet", schema).encoder
    columns = ("shop", "age", "genres", "vector")
    empty = rows.with_columns(pl.lit(None).alias(name) for name in columns)
    empty.write_parquet(tmp_path / "empty.parquet")
    check_types(tmp_path / "empty.parquet", empty.lazy(), schema)
    request = encoder.encode(empty)
    assert not any(request[name].any() for name in ("shop", "genres", NUMERIC))


@pytest.mark.parametrize(
    ("change", "schema", "said"),
    [
        (lambda f: f.drop("age"), SCHEMA, "no column 'age'"),
        (lambda f: f.drop("click"), SCHEMA, "no column 'click'"),
        (lambda f: f.with_columns(pl.lit("old").alias("age")), SCHEMA, "expects it as a number"),
        (lambda f: f.with_columns(pl.lit("no idea").alias("click")), SCHEMA, "contains the texts 'no idea'"),
        (lambda f: f.with_columns(pl.lit(None).alias("click")), SCHEMA, "is missing in all 300 rows"),
        (lambda f: f.head(2), SCHEMA, "has no rows"),
        (lambda f: f, Schema(labels=("click",), multi_valued=(MultiValued("shop", None, 2),)), "expects lists"),
        (lambda f: f, Schema(**{**vars(SCHEMA), "split": Split(column="part")}), "no column 'part'"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: object, schema: Schema, said: str) -> None:
    path = tmp_path / "rows.parquet"
    change(frame()).write_parquet(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        load_clicks(path, schema)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"PAR1 and then nothing", "damaged"),
        (b"\x80\x04\x00\x00 a pickle, perhaps", "is a pickle"),
        (b"\x07\x00\x00\x00 of no format", "neither CSV nor Parquet"),
        (b"one column\n1\n2\n", "1 column"),
    ],
)
def test_a_file_of_another_kind_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "rows.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        scan(path)


def test_a_text_deep_in_a_column_of_numbers_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = ["shop,age,click", *(f"a,{i % 7},{i % 2}" for i in range(20_000)), "a,old,1"]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"'age' .* contains 'old' at row 20,000 .*--missing 'old'"):
        load_clicks(path, SCHEMA)


def test_arrays_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {"user": [f"u{n % 7}" for n in range(200)], "click": [float(n % 2) for n in range(200)]}
    pl.DataFrame(columns).write_parquet(path)
    rows = load_clicks(path, Schema(labels=("click",), categorical=("user",))).train
    assert all(
        array.flags.writeable for array in (*rows.inputs.values(), *rows.labels.values())
    )  # torch warns otherwise
