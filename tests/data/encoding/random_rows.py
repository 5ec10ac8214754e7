"""Random rows of JSON values for encoders, most of them odd, and encoders of each kind."""

import math
import random
from collections.abc import Callable
from typing import Any

from recprune_export.data import (
    Encoder,
    MultiValued,
    Schema,
    SequenceColumns,
    SequenceEncoder,
    VectorColumn,
    Vocabulary,
)

_VALUES = [
    "a", "b", "7", "12", "12.5", "0", "true", "1e-7", "0.0000025", "10000000000000000",
    "9007199254740993", "NA", "x y", "é", "\u00a0a",
]  # fmt: skip
_ALPHABET = " \t\u00a0\u3000|,.eE+-0123456789xabTruefalsNZinf:\u0663"
_SPELLINGS: tuple[Callable[[str], Any], ...] = (
    lambda text: text,
    lambda text: f" {text}\t",
    lambda text: f"{text}.0",
    lambda text: f"{text}00",
    str.upper,
    str.title,
    lambda text: f"{text}|{text}",
    lambda text: f"{text} | |{text},b",
    lambda text: f"\u00a0{text}",
)
_NUMBERS = (
    0, -0.0, 12.0, 1e-7, 2.5e-6, 9.999e-6, 1e-5, 0.1, 1e15 + 0.5, 2**53, 1e16, 1.5e20, 1e21, 1e300, 5e-324, -3, True, False,
)  # fmt: skip
_DATES = (
    "2026-02-28",
    "2026-02-30",
    "1969-12-31T23:59:59Z",
    "2024-02-29 12:30",
    "2026-01-01 24:00",
    "0999-01-01",
    "2026-1-1",
)
_WORDS = (
    "", " ", "NA", "nan", "-inf", "Infinity", "INF", "1e400", "-1e-400", "+5", ".5", "5.", "5.e3",
    "1_000", "0x10", "1,5", "1,000,0", "-7", "-7.0", "none",
)  # fmt: skip

FIELDS = Schema(
    categorical=("shop", "user name"),
    numeric=("age", "flat"),
    multi_valued=(MultiValued("tags", "|", 3), MultiValued("words", ",", 2), MultiValued("lists", None, 4)),
    vectors=(VectorColumn("picture", 3),),
    missing=("none", "-7"),
)


def make_field_encoder() -> Encoder:
    names = {"shop": 1, "user name": 1, "tags": 2, "words": 2, "lists": 2}
    vocabularies = {name: Vocabulary(_VALUES, first) for name, first in names.items()}
    means = {"age": 31.7, "flat": 5.0, "picture_0": 0.1, "picture_1": -2e-9, "picture_2": 1e5}
    stds = {"age": 9.3, "flat": 1.0, "picture_0": 0.3, "picture_1": 1e-8, "picture_2": 7.0}
    return Encoder(FIELDS, vocabularies, means, stds)


def make_history_encoder() -> SequenceEncoder:
    return SequenceEncoder(Schema(sequence=SequenceColumns("user", "item", "time", 5)), Vocabulary(_VALUES, 1))


def draw_field_rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            **{name: _draw_value(draw) for name in ("shop", "user name", "age", "flat", "tags", "words")},
            "lists": _draw_list(draw),
            "picture": draw.choice([None, [_draw_element(draw) for _ in range(3)]]),
        }
        for _ in range(count)
    ]


def draw_histories(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"history": _draw_list(draw, 9)} for _ in range(count)]


def _draw_list(draw: random.Random, most: int = 6) -> list[Any] | None:
    return None if draw.random() < 0.1 else [_draw_value(draw) for _ in range(draw.randrange(most))]


def _draw_value(draw: random.Random) -> Any:
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice([None, *_WORDS, *_DATES])
    if kind == 1:
        return draw.choice(_NUMBERS)
    if kind == 2:
        return "".join(draw.choices(_ALPHABET, k=draw.randrange(8)))
    if kind == 3:
        return draw.choice(
            [draw.uniform(-50, 50), math.ldexp(draw.uniform(-1, 1), draw.randrange(-80, 80)), draw.randrange(-99, 99)]
        )
    return draw.choice(_SPELLINGS)(draw.choice(_VALUES))


def _draw_element(draw: random.Random) -> float | None:
    return draw.choice([None, 0, draw.randrange(-9, 9), draw.gauss(0, 1), 1e-9, 1e200])
