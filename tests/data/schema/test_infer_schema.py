from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import SchemaOverrides, infer_schema, infer_sequence_schema
from recprune_export.errors import DataError, UsageError


def write(tmp_path: Path, **columns: object) -> Path:
    path = tmp_path / "rows.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return path


def rows(count: int = 400) -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {
        "user": rng.integers(50, size=count),
        "shop": rng.choice(["a", "b", "c"], size=count),
        "age": rng.normal(40, 10, size=count),
        "tags": rng.choice(["x|y", "y|z", "x|z|y", "z|x"], size=count),
        "click": rng.integers(2, size=count),
    }


def test_each_kind_of_column_is_recognised(tmp_path: Path) -> None:
    schema = infer_schema(write(tmp_path, **rows()), SchemaOverrides(labels=("click",))).schema
    assert (schema.categorical, schema.numeric) == (("user", "shop"), ("age",))
    (tags,) = schema.multi_valued
    assert (tags.name, tags.separator, tags.max_length) == ("tags", "|", 3)


def test_the_user_decides_against_every_guess(tmp_path: Path) -> None:
    wishes = SchemaOverrides(labels=("click",), categorical=("tags",), numeric=("user",), ignore=("shop",))
    schema = infer_schema(write(tmp_path, **rows()), wishes).schema
    assert (schema.categorical, schema.numeric, schema.multi_valued) == (("tags",), ("user", "age"), ())


def test_a_list_column_is_multi_valued(tmp_path: Path) -> None:
    path = write(tmp_path, **rows(4) | {"tags": [["a"], ["a", "b"], [], ["c"]]})
    (tags,) = infer_schema(path, SchemaOverrides(labels=("click",))).schema.multi_valued
    assert (tags.separator, tags.max_length) == (None, 2)


def test_a_column_from_which_the_label_was_made_is_left_out_and_named(tmp_path: Path) -> None:
    columns = rows()
    rating = np.random.default_rng(1).integers(1, 11, size=400)
    path = write(tmp_path, **columns | {"rating": rating, "click": (rating >= 8).astype(int)})
    inferred = infer_schema(path, SchemaOverrides(labels=("click",)))
    assert "rating" not in inferred.schema.categorical
    assert any("'rating' alone predicts 'click'" in note for note in inferred.notes)
    asked = infer_schema(path, SchemaOverrides(labels=("click",), categorical=("rating",)))
    assert "rating" in asked.schema.categorical


def test_an_honest_field_of_many_ids_is_no_leak(tmp_path: Path) -> None:
    columns = rows(3000) | {"user": np.random.default_rng(1).integers(900, size=3000)}
    inferred = infer_schema(write(tmp_path, **columns), SchemaOverrides(labels=("click",)))
    assert "user" in inferred.schema.categorical
    assert not inferred.notes


def test_a_row_number_is_left_out_and_named(tmp_path: Path) -> None:
    inferred = infer_schema(
        write(tmp_path, **rows(3000) | {"row": np.arange(3000)}), SchemaOverrides(labels=("click",))
    )
    assert "row" not in inferred.schema.categorical
    assert any("'row' has 3,000 different values" in note for note in inferred.notes)


def test_a_split_column_is_found(clicks_file: Path) -> None:
    assert infer_schema(clicks_file, SchemaOverrides(labels=("clicked",))).schema.split.column == "split"


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (SchemaOverrides(labels=("clicks",)), "no column 'clicks'"),
        (SchemaOverrides(labels=("shop",)), "label 'shop' .* holds the texts .* write it as"),
        (SchemaOverrides(labels=("click",), numeric=("shop",)), "cannot be a numeric field"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, wishes: SchemaOverrides, said: str) -> None:
    with pytest.raises(DataError, match=said):
        infer_schema(write(tmp_path, **rows()), wishes)


def test_the_user_names_the_split(tmp_path: Path) -> None:
    part = np.resize(["train", "valid", "test"], 400)
    path = write(tmp_path, **rows() | {"part": part})
    assert infer_schema(path, SchemaOverrides(labels=("click",), split="part")).schema.split.column == "part"
    with pytest.raises(DataError, match="no column 'when'"):
        infer_schema(path, SchemaOverrides(labels=("click",), split="when"))


def test_sequence_columns_are_told_by_their_names(sequences_file: Path) -> None:
    sequence = infer_sequence_schema(sequences_file, SchemaOverrides(max_length=7)).sequence
    assert sequence is not None
    assert (sequence.user, sequence.item, sequence.order, sequence.max_length) == ("user", "item", "position", 7)
    with pytest.raises(UsageError, match="three columns"):
        infer_sequence_schema(sequences_file, SchemaOverrides(sequence="user,item"))
    with pytest.raises(DataError, match="no column 'when'"):
        infer_sequence_schema(sequences_file, SchemaOverrides(sequence="user,item,when"))


def test_a_log_without_telling_names_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sequence"):
        infer_sequence_schema(write(tmp_path, a=[1], b=[2], c=[3]), SchemaOverrides())
