"""Rows of usual and unusual JSON values, made from the vocabularies of an encoder, to test encoders in other languages."""

import re
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.data.encoding.json_rows import JsonRow
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.schema.schema import MultiValued
from recprune_export.data.sequences import SequenceEncoder

_NEW = "new value"
_LARGEST_EXACT = 2**53  # JSON readers represent numbers as float64
_WORDS = ("", "NA", "nan", "TRUE", True, "9007199254740993", "1e+16", 1e-7, -0.0, "007", "12.50", 3)
_NUMBERS = (
    0, None, "", "NaN", "NA", " 12.5\t", "12,5", "-.5e1", True, "False", "2026-02-28", "2026-02-28T09:30:15.25Z", "2026-02-30",
    "9007199254740993", 12.0, 1e300, "-Infinity", "inf",
)  # fmt: skip


def make_odd_rows(encoder: Encoder | SequenceEncoder, count: int) -> list[JsonRow]:
    """Return rows for `encode_json_rows`: the unusual values of each field in turn, after a first row with the most frequent values.

    >>> from recprune_export.data.schema.schema import Schema
    >>> schema = Schema(categorical=("shop",))
    >>> make_odd_rows(Encoder(schema, {"shop": Vocabulary(["7", "x"], 1)}, {}, {}), 6)
    [{'shop': '7'}, {'shop': None}, {'shop': 'new value'}, {'shop': ' 7 '}, {'shop': 7}, {'shop': '7.0'}]
    """
    if isinstance(encoder, SequenceEncoder):
        fields: dict[str, Sequence[Any]] = {HISTORY: _odd_histories(encoder)}
    else:
        schema = encoder.schema
        fields = {name: [*_odd_values(encoder.vocabularies[name]), *_WORDS] for name in schema.categorical}
        fields |= {f.name: _odd_lists(f, encoder.vocabularies[f.name], schema.missing) for f in schema.multi_valued}
        numbers = [*_NUMBERS, *schema.missing]
        fields |= {name: [_round(encoder.means[name]), *numbers] for name in schema.numeric}
        for vector in schema.vectors:
            means = [_round(encoder.means[f"{vector.name}_{i}"]) for i in range(vector.size)]
            fields[vector.name] = [means, None, [*means[:-1], None], [1] * vector.size, [-2.5e-7] * vector.size]
    columns = {name: islice(cycle(values), count) for name, values in fields.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _odd_values(vocabulary: Vocabulary) -> list[Any]:
    """Return a known value, a missing, an unknown and a padded one, and other spellings of the known one."""
    values = vocabulary.values.head(200).to_list() or [_NEW]
    known = next(filter(_is_small_integer, values), values[0])
    numbers = [int(known), f"{known}.0", float(known), f"+{known}"] if _is_small_integer(known) else []
    return [known, None, _NEW, f" {known} ", *numbers, known.upper(), values[-1]]


def _odd_lists(field: MultiValued, vocabulary: Vocabulary, missing: Sequence[str]) -> list[Any]:
    values = vocabulary.values.head(200).to_list() or [_NEW]
    known, other = values[0], values[-1]
    too_long = list(islice(cycle(values), field.max_length + 2))
    odd = ["", *missing, "true", "12.0", known]
    if field.separator is None:
        lists = [
            [known, other],
            [],
            None,
            [None, known],
            [other, *odd],
            too_long,
            [_NEW],
            [f" {known} "],
            [12, True, 12.0],
        ]
        return [*lists, [None] * field.max_length + [known]]
    parts = (
        [known, other], [known], [_NEW], [known, _NEW, other], too_long, odd, ["", ""], ["", known], [known, "", other]
    )  # fmt: skip
    texts = [field.separator.join(each) for each in parts]
    spaces = [f" {known} {field.separator}\t{other}\n", " ", f"{field.separator} {field.separator}"]
    return [*texts[:1], None, "", *texts[1:], *spaces, 12, True]


def _odd_histories(encoder: SequenceEncoder) -> list[Any]:
    values = encoder.items.values.head(200).to_list() or [_NEW]
    known, other, odd = values[0], values[-1], _odd_values(encoder.items)
    too_long = list(islice(cycle(values), encoder.columns.max_length + 2))
    return [[known, other], [], [_NEW], odd, too_long, [*too_long, _NEW, None], [known] * 3, ["", known, *_WORDS], None]


def _is_small_integer(text: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", text) is not None and int(text) <= _LARGEST_EXACT


def _round(number: float) -> float:
    return float(f"{number:.6g}") if np.isfinite(number) else 0.0
