from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import MultiValued, Schema, load_clicks, scan
from recprune_export.data.schema import Split
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
    ("change", "schema", "said"),
    [
        (lambda f: f.drop("age"), SCHEMA, "no column 'age'"),
        (lambda f: f.drop("click"), SCHEMA, "no column 'click'"),
        (lambda f: f.with_columns(pl.lit("old").alias("age")), SCHEMA, "takes it as a number"),
        (lambda f: f.with_columns(pl.lit("no idea").alias("click")), SCHEMA, "holds the texts 'no idea'"),
        (lambda f: f.with_columns(pl.lit(None).alias("click")), SCHEMA, "is missing in all 300 rows"),
        (lambda f: f.head(2), SCHEMA, "has no rows"),
        (lambda f: f, Schema(labels=("click",), multi_valued=(MultiValued("shop", None, 2),)), "takes lists"),
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
        (b"\x80\x04\x00\x00 a pickle, perhaps", "neither CSV nor Parquet"),
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
    with pytest.raises(DataError, match="cannot be read"):
        load_clicks(path, SCHEMA)
