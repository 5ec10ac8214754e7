"""The id of a value is the same however a file spells it, and a client in plain Python spells it in the same way."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.bundle.servers.serving import encode_rows
from recprune_export.data import MISSING_WORDS, Encoder, MultiValued, Schema, canonical_text

ROOT = Path(__file__).parents[3]
INTEGERS = st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1, max_size=12)
TEXTS = st.text(max_size=6) | st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{0,3})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
NUMBER_WORDS = [word for word in MISSING_WORDS if word and not word.startswith(("-1.#", "1.#"))]


def canonical(values: pl.Series) -> list[str | None]:
    return pl.select(canonical_text(pl.lit(values), values.dtype)).to_series().to_list()


SPELLINGS: dict[str, Callable[[list[int | None]], pl.Series]] = {
    "int64": lambda values: pl.Series(values, dtype=pl.Int64),
    "float64": lambda values: pl.Series(values, dtype=pl.Float64, strict=False),
    "float64 with NaN": lambda values: pl.Series(values, dtype=pl.Float64, strict=False).fill_null(float("nan")),
    "decimal": lambda values: pl.Series([None if v is None else Decimal(v) for v in values], dtype=pl.Decimal(30, 3)),
    "text": lambda values: pl.Series([None if v is None else str(v) for v in values], dtype=pl.String),
    "text of floats": lambda values: pl.Series([None if v is None else f"{v}.0" for v in values], dtype=pl.String),
    "text of decimals": lambda values: pl.Series([None if v is None else f"{v}.000" for v in values], dtype=pl.String),
    "text with empty ones": lambda values: pl.Series(["" if v is None else str(v) for v in values], dtype=pl.String),
    "text of Python's floats": lambda values: pl.Series([None if v is None else repr(float(v)) for v in values], dtype=pl.String),
    "categorical": lambda values: SPELLINGS["text of floats"](values).cast(pl.Categorical),
}  # fmt: skip


@settings(max_examples=30)
@given(INTEGERS)
def test_an_integer_has_one_id_in_every_type(values: list[int | None]) -> None:
    expected = [None if value is None else str(value) for value in values]
    assert {name: canonical(spell(values)) for name, spell in SPELLINGS.items()} == dict.fromkeys(SPELLINGS, expected)


@settings(max_examples=15)
@given(INTEGERS, st.sampled_from(sorted(SPELLINGS)), st.sampled_from(sorted(SPELLINGS)))
def test_an_encoder_gives_the_same_ids_for_another_spelling(
    values: list[int | None], fitted: str, encoded: str
) -> None:
    schema = Schema(categorical=("shop",), multi_valued=(MultiValued("tags", None, 2),))

    def frame(name: str) -> pl.DataFrame:
        shop = SPELLINGS[name](values).cast(pl.String) if name == "categorical" else SPELLINGS[name](values)
        return pl.DataFrame({"shop": shop, "tags": shop.implode().new_from_index(0, len(shop))})

    encoder = Encoder.fit(frame(fitted).lazy(), schema)
    request, again = encoder.encode(frame(fitted)), encoder.encode(frame(encoded))
    assert {name: array.tolist() for name, array in request.items()} == {n: a.tolist() for n, a in again.items()}
    assert (request["shop"] == 0).sum() == values.count(None)


@settings(max_examples=25)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_the_canonical_text_stays_as_it_is(texts: list[str]) -> None:
    once = canonical(pl.Series(texts))
    assert canonical(pl.Series(once, dtype=pl.String)) == once
    assert [text is None for text in once] == [text == "" for text in texts]


@pytest.mark.parametrize("text", ["007", "007.0", "+5", "12e4", "1.2.3", "NA", "0x1f", " 7", "1,5", "-"])
def test_other_texts_are_ids_as_they_are(text: str) -> None:
    assert canonical(pl.Series([text])) == [text]


def test_the_examples_of_the_specification_hold() -> None:
    text = (ROOT / "docs" / "encoding.md").read_text(encoding="utf-8")
    assert (
        'So 12, 12.0, `"12"`, `"12.0"`, `"12."` and `"1.2e+1"` are one id; `"007"`, `" 12"`, `"+12"` and `"12e4"`'
        in text
    )
    assert canonical(pl.Series([12])) == canonical(pl.Series([12.0])) == ["12"]
    assert canonical(pl.Series(["12", "12.0", "12.", "1.2e+1"])) == ["12"] * 4
    assert "12" not in canonical(pl.Series(["007", " 12", "+12", "12e4"]))
    numbers = [1e-7, 2.5e-7, 1e21, -0.0, 2.5e-6, 1e20]
    assert canonical(pl.Series(numbers)) == ["1e-7", "2.5e-7", "1e+21", "0", "0.0000025", "1" + "0" * 20]


def test_booleans_are_one_id_in_every_spelling() -> None:
    assert canonical(pl.Series([True, False, None])) == ["true", "false", None]
    assert canonical(pl.Series(["True", "FALSE", "true"])) == ["true", "false", "true"]


@settings(max_examples=25)
@given(
    st.lists(TEXTS, min_size=1, max_size=8)
    | st.lists(st.none() | st.floats(allow_infinity=False), min_size=1, max_size=8)
    | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8)
    | st.lists(st.none() | st.booleans(), min_size=1, max_size=8)
)
def test_a_client_in_plain_python_spells_values_alike(values: list[float | int | bool | str | None]) -> None:
    assert [encode_rows.canonical_text(value) for value in values] == canonical(pl.Series(values))


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=10), st.sampled_from(NUMBER_WORDS))
def test_a_word_for_a_missing_value_among_numbers_has_no_id(values: list[int], word: str) -> None:
    texts = pl.DataFrame({"shop": [*map(str, values), word]})
    numbers = pl.DataFrame({"shop": [*values, None]})
    schema = Schema(categorical=("shop",))
    with_word, with_null = (Encoder.fit(frame.lazy(), schema) for frame in (texts, numbers))
    assert with_word.vocabularies["shop"].to_list() == with_null.vocabularies["shop"].to_list()
    assert with_word.encode(texts)["shop"].tolist() == with_null.encode(numbers)["shop"].tolist()


def test_a_word_among_texts_is_an_id_unless_it_is_named() -> None:
    rows = pl.DataFrame({"country": ["NA", "DE", "NA"], "tags": ["x|NA", "y", "none"]})
    fields = {"categorical": ("country",), "multi_valued": (MultiValued("tags", "|", 2),)}
    assert Encoder.fit(rows.lazy(), Schema(**fields)).encode(rows)["country"].tolist() == [1, 2, 1]
    named = Encoder.fit(rows.lazy(), Schema(**fields, missing=("NA", "none"))).encode(rows)
    assert named["country"].tolist() == [0, 1, 0]
    assert named["tags"].tolist() == [[2, 0], [3, 0], [0, 0]]
