from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import SchemaOverrides, infer_schema, infer_sequence_schema
from recprune_export.data.schema import Split
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
    assert inferred.notes == ("Integers are read as ids in 'user'; --numeric user reads numbers.",)


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
        (SchemaOverrides(labels=("shop",)), "label 'shop' .* contains the texts .* write numbers"),
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


WORDS = np.resize(["train", "valid", "test"], 400)


@pytest.mark.parametrize("name", ["split", "Fold", "SUBSET"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(np.arange(400) < 390, WORDS, None), r"missing in 10 rows \(the first is row 390\)"),
        (np.where(np.arange(400) < 390, WORDS, "holdout"), r"contains 'holdout' in 10 rows \(the first is row 390\)"),
        (np.arange(400) % 3, "contains Int64, such as 0, 1, 2"),
        (np.resize([0.5, 1.5], 400), "contains Float64"),
    ],
)
def test_a_column_that_is_named_like_a_split_and_is_none_is_refused(
    tmp_path: Path, name: str, values: np.ndarray, message: str
) -> None:
    path = write(tmp_path, **rows() | {name: values.tolist()})
    with pytest.raises(DataError, match=message) as refused:
        infer_schema(path, SchemaOverrides(labels=("click",)))
    assert f"--ignore {name} leaves it out and --categorical {name} makes it a field" in str(refused.value)
    for overrides in ({"ignore": (name,)}, {"categorical": (name,)}, {"split_by_time": "age"}):
        inferred = infer_schema(path, SchemaOverrides(labels=("click",), **overrides))  # type: ignore[arg-type]
        assert (name in inferred.schema.categorical) == ("categorical" in overrides)
        assert any(f"'{name}' is excluded" in note for note in inferred.notes) == ("split_by_time" in overrides)


def test_of_two_columns_that_are_named_like_a_split_one_may_be_none(tmp_path: Path) -> None:
    overrides = SchemaOverrides(labels=("click",))
    inferred = infer_schema(write(tmp_path, **rows() | {"fold": np.arange(400) % 5, "split": WORDS}), overrides)
    assert inferred.schema.split == Split("split")
    assert "fold" not in inferred.schema.categorical
    assert any("'fold' is excluded" in note for note in inferred.notes)
    with pytest.raises(UsageError, match=r"'fold' and 'split' .* choose one with --split"):
        infer_schema(write(tmp_path, **rows() | {"fold": WORDS, "split": WORDS}), overrides)


@pytest.mark.parametrize("option", ["split_by_time", "split_by_user"])
def test_the_column_by_which_rows_are_split_is_no_field_but_where_it_is_named_as_one(
    tmp_path: Path, option: str
) -> None:
    path = write(tmp_path, **rows())
    for categorical in ((), ("user",)):
        overrides = SchemaOverrides(labels=("click",), categorical=categorical, **{option: "user"})  # type: ignore[arg-type]
        inferred = infer_schema(path, overrides)
        assert inferred.schema.split.source == "user"
        assert ("user" in inferred.schema.categorical) == bool(categorical)
        assert any("'user' is excluded, since rows are split by it" in note for note in inferred.notes) != bool(
            categorical
        )


def test_one_split_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--split and --split-by-user cannot be combined"):
        infer_schema(write(tmp_path, **rows()), SchemaOverrides(labels=("click",), split="shop", split_by_user="user"))


def test_histories_are_split_by_leave_one_out_or_by_their_order(sequences_file: Path) -> None:
    overrides = SchemaOverrides(split_by_time="position")
    assert infer_sequence_schema(sequences_file, overrides).split == Split(time="position")
    for wrong in (
        SchemaOverrides(split_by_time="item"),
        SchemaOverrides(split_by_user="user"),
        SchemaOverrides(split="user"),
    ):
        with pytest.raises(UsageError, match="leave-one-out, or in time by the column that orders them"):
            infer_sequence_schema(sequences_file, wrong)


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


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"numeric": [f"n{row % 7}" for row in range(400)]}, "'numeric' .* contains ids, .*--ignore numeric"),
        ({"v": [[0.5, 1.5]] * 400, "v_1": np.linspace(0, 1, 400)}, "'v_1' .* the vector 'v'.*--ignore v_1"),
    ],
)
def test_two_inputs_of_one_name_are_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        infer_schema(
            write(tmp_path, **rows(), **columns), SchemaOverrides(labels=("click",), numeric=("v",) * ("v" in columns))
        )
