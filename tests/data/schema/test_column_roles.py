"""A column of any type becomes numbers or ids, or is left out, and no change of meaning is silent."""

import datetime
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recprune_export.data import NUMERIC, Encoder, SchemaOverrides, infer_schema, load_clicks
from recprune_export.data.schema._infer_schema import InferredSchema
from recprune_export.errors import DataError

COUNT = 120
RNG = np.random.default_rng(0)
DAY = datetime.datetime(2024, 5, 1)
INTEGERS = [int(n) for n in RNG.integers(0, 30, COUNT)]
FRACTIONS = [round(float(n), 3) for n in RNG.normal(size=COUNT)]

COLUMNS: dict[str, pl.Series] = {
    "text": pl.Series([f"s{n}" for n in INTEGERS]),
    "integer": pl.Series(INTEGERS),
    "small integer": pl.Series(INTEGERS, dtype=pl.UInt8),
    "float": pl.Series(FRACTIONS),
    "float32": pl.Series(FRACTIONS, dtype=pl.Float32),
    "whole float": pl.Series([float(n) for n in INTEGERS]),
    "decimal": pl.Series([Decimal(str(n)) for n in FRACTIONS]),
    "boolean": pl.Series([n > 9 for n in INTEGERS]),
    "categorical": pl.Series([f"s{n}" for n in INTEGERS], dtype=pl.Categorical),
    "enumeration": pl.Series([f"s{n}" for n in INTEGERS], dtype=pl.Enum([f"s{n}" for n in range(30)])),
    "date": pl.Series([DAY.date() + datetime.timedelta(days=n) for n in INTEGERS]),
    "datetime": pl.Series([DAY + datetime.timedelta(hours=n) for n in INTEGERS]),
    "time": pl.Series([datetime.time(n % 24) for n in INTEGERS]),
    "duration": pl.Series([datetime.timedelta(seconds=n) for n in INTEGERS]),
    "text of dates": pl.Series([str(DAY.date() + datetime.timedelta(days=n)) for n in INTEGERS]),
    "text of times": pl.Series([str(DAY + datetime.timedelta(hours=n)) for n in INTEGERS]),
    "text of fractions": pl.Series([f"{n:.3f}" for n in FRACTIONS]),
    "numbers and words": pl.Series([*map(str, INTEGERS[:-9]), *["none of these"] * 9]),
    "vector": pl.Series([[n, 2 * n] for n in FRACTIONS]),
    "array": pl.Series([[n, 2 * n] for n in FRACTIONS], dtype=pl.Array(pl.Float32, 2)),
    "ragged floats": pl.Series([[0.5] * (n % 3) for n in INTEGERS]),
    "list of texts": pl.Series([["a", "b"][: n % 3] for n in INTEGERS]),
    "list of integers": pl.Series([[n, 7] for n in INTEGERS]),
    "vectors in text": pl.Series([f"[{n}, {2 * n}]" for n in FRACTIONS]),
    "fractions in text": pl.Series([f"{abs(n):.2f}|0.5" for n in FRACTIONS]),
    "dates of another form": pl.Series([f"{n + 1}/5/2024" for n in INTEGERS]),
    "objects in text": pl.Series([f'{{"age": {n}}}' for n in INTEGERS]),
    "times with a zone": pl.Series([f"2024-05-{1 + n % 30:02d}T10:00:00+02:00" for n in INTEGERS]),
    "clock": pl.Series([f"{n % 24}:30" for n in INTEGERS]),
    "whole decimal": pl.Series([Decimal(n) for n in INTEGERS], dtype=pl.Decimal(38, 0)),
    "percent": pl.Series([f"{n}%" for n in INTEGERS]),
    "money": pl.Series([f"$ {n}.50" for n in INTEGERS]),
    "binary": pl.Series([b"x"] * COUNT),
    "struct": pl.Series([{"a": n} for n in INTEGERS]),
    "nested list": pl.Series([[[n]] for n in INTEGERS]),
    "nothing": pl.Series([None] * COUNT, dtype=pl.Null),
    "no text": pl.Series([None] * COUNT, dtype=pl.String),
}
EXPECTED = {
    **dict.fromkeys(["float", "float32", "whole float", "decimal", "whole decimal"], "numeric"),
    **dict.fromkeys(["vector", "array"], "vector"),
    **dict.fromkeys(["list of texts", "list of integers"], "multi-valued"),
    **dict.fromkeys(
        ["date", "datetime", "time", "duration", "text of dates", "text of times", "ragged floats", "binary", "struct"], "excluded"
    ),
    **dict.fromkeys(["nested list", "nothing", "no text", "vectors in text", "fractions in text"], "excluded"),
    **dict.fromkeys(["dates of another form", "clock", "times with a zone", "objects in text"], "excluded"),
}  # fmt: skip
WORTH_A_NOTE = {
    "integer",
    "list of integers",
    "whole decimal",
    "small integer",
    "whole float",
    "text of fractions",
    "numbers and words",
    "percent",
    "money",
    "vector",
    "array",
}


def infer(path: Path, columns: dict[str, pl.Series], **options: Any) -> InferredSchema:
    label = pl.Series("click", [n % 2 for n in range(COUNT)])
    rest = pl.Series("rest", ["r", "s"] * (COUNT // 2))
    pl.DataFrame([label, rest, *(column.alias(name) for name, column in columns.items())]).write_parquet(path)
    return infer_schema(path, SchemaOverrides(labels=("click",), **options))


@pytest.mark.parametrize("name", COLUMNS)
def test_the_role_of_each_type_and_a_note_where_it_may_surprise(tmp_path: Path, name: str) -> None:
    inferred = infer(tmp_path / "rows.parquet", {name: COLUMNS[name]})
    (column,) = [column for column in inferred.columns if column.name == name]
    assert column.role == EXPECTED.get(name, "categorical")
    surprising = column.role == "excluded" or name in WORTH_A_NOTE
    assert surprising == any(f"'{name}'" in note for note in inferred.notes)


@pytest.mark.parametrize("name", ["dates of another form", "times with a zone"])
def test_dates_that_are_no_numbers_are_refused_with_a_form_that_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="write dates and times as 2024-05-31 10:00:00"):
        infer(tmp_path / "rows.parquet", {name: COLUMNS[name]}, numeric=(name,))


@pytest.mark.parametrize("name", sorted(set(COLUMNS) - {"nothing"}))
@pytest.mark.parametrize("option", ["categorical", "numeric", "multi_valued"])
def test_a_requested_role_is_taken_or_refused_by_name(tmp_path: Path, name: str, option: str) -> None:
    roles = {"categorical": ["categorical"], "numeric": ["numeric", "vector"], "multi_valued": ["multi-valued"]}[option]
    try:
        inferred = infer(tmp_path / "rows.parquet", {name: COLUMNS[name]}, **{option: (name,)})
    except DataError as error:
        assert f"'{name}'" in str(error)  # noqa: PT017
        return
    (column,) = [column for column in inferred.columns if column.name == name]
    assert column.role in roles
    was_number = EXPECTED.get(name) in ("numeric", "vector", "excluded")
    if was_number and option != "numeric" and not isinstance(COLUMNS[name].dtype, pl.String):
        assert any(f"'{name}'" in note for note in inferred.notes)
    data = load_clicks(tmp_path / "rows.parquet", inferred.schema)
    assert np.isfinite(data.train.inputs.get(NUMERIC, np.zeros(1))).all()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6, unique=True), st.integers(0, 40))
def test_columns_of_random_types_are_encoded_finite_and_alike_after_json(
    tmp_path: Path, names: list[str], gaps: int
) -> None:
    missing = pl.Series(np.random.default_rng(gaps).integers(0, 100, COUNT) < gaps)
    columns = {
        name: pl.select(pl.when(~missing).then(pl.lit(COLUMNS[name]))).to_series() if gaps else COLUMNS[name]
        for name in names
    }
    inferred = infer(tmp_path / "rows.parquet", columns)
    data = load_clicks(tmp_path / "rows.parquet", inferred.schema)
    again = Encoder.from_dict(data.encoder.to_dict())
    request = again.encode(pl.read_parquet(tmp_path / "rows.parquet"))
    assert all(np.isfinite(values).all() for values in request.values())
    excluded = {column.name for column in inferred.columns if column.role == "excluded"}
    assert all(any(f"'{name}'" in note for note in inferred.notes) for name in excluded)
    assert set(inferred.schema.fields) | excluded == {*names, "rest"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("date", "text of dates", (DAY.date() - datetime.date(1970, 1, 1)).days + INTEGERS[0]),
        ("datetime", "text of times", (DAY - datetime.datetime(1970, 1, 1)).days + INTEGERS[0] / 24),
    ],
)
def test_a_date_is_the_same_number_of_days_in_every_type(tmp_path: Path, name: str, text: str, expected: float) -> None:
    for column in (name, text):
        inferred = infer(tmp_path / "rows.parquet", {"when": COLUMNS[column]}, numeric=("when",))
        assert any("days since 1970-01-01" in note for note in inferred.notes)
        encoder = load_clicks(tmp_path / "rows.parquet", inferred.schema).encoder
        first = encoder.encode(pl.read_parquet(tmp_path / "rows.parquet"))[NUMERIC][0, 0]
        assert math.isclose(first * encoder.stds["when"] + encoder.means["when"], expected, abs_tol=1e-3)


def test_vectors_are_standardized_columns_and_of_one_length(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    inferred = infer(path, {"vector": COLUMNS["vector"], "age": COLUMNS["float"]})
    data = load_clicks(path, inferred.schema)
    assert data.encoder.schema.dense_columns == ("age", "vector_0", "vector_1")
    np.testing.assert_allclose(data.train.inputs[NUMERIC].mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(data.train.inputs[NUMERIC].std(axis=0), 1.0, atol=1e-5)
    rows = pl.read_parquet(path).with_columns(
        vector=pl.Series([None, [1.0, float("nan")], [1.0], *[[0.0, 0.0]] * (COUNT - 3)])
    )
    with pytest.raises(DataError, match=r"'vector' contains 1 numbers at row 2 .*vectors of 2"):
        data.encoder.encode(rows)
    request = data.encoder.encode(rows.head(2))[NUMERIC]
    assert request[0, 1:].tolist() == [0.0, 0.0]
    assert request[1, 2] == 0.0


def test_words_for_missing_values_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    age = [f"{n:.1f}" for n in FRACTIONS[:-4]] + ["N/A", "?", "N/A", "None"]
    country = [["DE", "NA"][n % 2] for n in range(COUNT)]
    pl.DataFrame({"age": age, "country": country, "click": [n // 2 % 2 for n in range(COUNT)]}).write_csv(path)
    inferred = infer_schema(path, SchemaOverrides(labels=("click",)))
    assert (inferred.schema.numeric, inferred.schema.categorical) == (("age",), ("country",))
    assert any("'age'" in note and "missing value, such as 'N/A', in 4 rows" in note for note in inferred.notes)
    assert any("'country' contains 'NA'" in note and "--missing 'NA'" in note for note in inferred.notes)
    named = infer_schema(path, SchemaOverrides(labels=("click",), missing=("NA",)))
    assert load_clicks(path, named.schema).encoder.vocabularies["country"].to_list() == ["DE"]


def test_another_word_for_a_missing_number_is_named_by_the_user(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    age = ["unknown" if n % 10 == 0 else str(n) for n in range(COUNT)]
    pl.DataFrame(
        {"age": age, "shop": ["a", "b"] * (COUNT // 2), "click": [n // 2 % 2 for n in range(COUNT)]}
    ).write_csv(path)
    inferred = infer_schema(path, SchemaOverrides(labels=("click",)))
    assert any(
        "'age' contains numbers in 108 rows and other texts, such as 'unknown', in 12" in note
        for note in inferred.notes
    )
    with pytest.raises(DataError, match=r"'age' .* contains 'unknown' at row 0 .*--missing 'unknown'"):
        infer_schema(path, SchemaOverrides(labels=("click",), numeric=("age",)))
    named = infer_schema(path, SchemaOverrides(labels=("click",), numeric=("age",), missing=("unknown",)))
    encoder = load_clicks(path, named.schema).encoder
    assert encoder.encode(pl.DataFrame({"age": ["unknown", None], "shop": ["a", "a"]}))[NUMERIC].tolist() == [
        [0.0],
        [0.0],
    ]


def test_numbers_with_another_word_that_are_nearly_a_key_may_be_read_as_numbers(tmp_path: Path) -> None:
    path, count = tmp_path / "rows.csv", 2000
    price = ["n.a." if n % 10 == 1 else f"{n}.25" for n in range(count)]
    pl.DataFrame({"price": price, "shop": ["a", "b"] * 1000, "click": [n // 2 % 2 for n in range(count)]}).write_csv(
        path
    )
    notes = " ".join(infer_schema(path, SchemaOverrides(labels=("click",))).notes)
    assert "'price' has 1,801 different values in 2,000 rows and is excluded" in notes
    assert "numbers in 1,800 rows and other texts, such as 'n.a.', in 200, the first in row 1" in notes
    assert "--numeric price --missing 'n.a.' reads numbers" in notes


def test_ids_spelled_in_two_ways_are_noted(tmp_path: Path) -> None:
    shop = pl.Series([["12", "12.0", "x", "7"][n % 4] for n in range(COUNT)])
    inferred = infer(tmp_path / "rows.parquet", {"shop": shop})
    assert any(
        "'shop' contains 1 ids with more than one spelling, such as '12.0' for '12'" in note for note in inferred.notes
    )


def test_decimal_commas_are_no_lists_of_ids(tmp_path: Path) -> None:
    path, price = tmp_path / "rows.parquet", pl.Series([f"{n},5" for n in INTEGERS])
    inferred = infer(path, {"price": price})
    assert any("'price' contains texts such as" in note and "--numeric price" in note for note in inferred.notes)
    assert inferred.schema.fields == ("rest",)
    numeric = infer(path, {"price": price}, numeric=("price",))
    assert any("decimal commas" in note for note in numeric.notes)
    encoder = load_clicks(path, numeric.schema).encoder
    first = encoder.encode(pl.read_parquet(path))[NUMERIC][0, 0] * encoder.stds["price"] + encoder.means["price"]
    assert math.isclose(first, INTEGERS[0] + 0.5, rel_tol=1e-5)


def test_an_ignored_column_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    code = [str(n) for n in range(COUNT - 1)] + ["late"]
    pl.DataFrame(
        {"code": code, "shop": ["a", "b"] * (COUNT // 2), "click": [n // 2 % 2 for n in range(COUNT)]}
    ).write_csv(path)
    inferred = infer_schema(path, SchemaOverrides(labels=("click",), ignore=("code",)))
    assert [column.role for column in inferred.columns] == ["ignored", "categorical", "label"]
    assert inferred.notes == ()
