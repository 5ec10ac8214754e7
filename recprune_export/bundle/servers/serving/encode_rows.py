"""Encode raw rows as the inputs of a bundle's model, in Python without packages.

    python encode_rows.py .              encodes samples/raw-rows.json of the bundle and compares
    python encode_rows.py . rows.json    prints the inputs for a list of rows, as JSON

It reads only the bundle's `encoding.json`; docs/encoding.md of recprune-export is the specification of that file. A row is an object with
a value for each field, null where it is missing; for a model of histories it is {"history": [oldest item, ...]}.
"""

import datetime
import json
import math
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

PLAIN = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]*")
SCIENTIFIC = re.compile(r"-?[0-9](\.[0-9]+[eE][+-]?|[eE][+-])[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
INFINITE = re.compile(r"[+-]?(inf|infinity)", re.IGNORECASE | re.ASCII)
DATE = re.compile(
    r"([1-9][0-9]{3}-[0-9]{2}-[0-9]{2})(?:[ T]([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.[0-9]+)?)?Z?)?"
)
DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
BOOLEANS = {"true": 1.0, "True": 1.0, "TRUE": 1.0, "false": 0.0, "False": 0.0, "FALSE": 0.0}
WHITE_SPACE = " \t\n\v\f\r"
DAY_ZERO = datetime.date(1970, 1, 1)


class RowEncoder:
    """The content of an `encoding.json`."""

    def __init__(self, encoding: Mapping[str, Any]) -> None:
        if encoding["specification"] != 1:
            raise SystemExit(f"encoding.json follows specification {encoding['specification']}, not 1.")
        self.encoding, self.missing = encoding, encoding["schema"]["missing"]
        self.ids: dict[str, dict[str, int]] = {}
        for spec in encoding["inputs"]:
            if spec["kind"] != "numbers":
                values = encoding["items"] if spec["kind"] == "items" else encoding["vocabularies"][spec["name"]]
                self.ids[spec["name"]] = {value: i for i, value in enumerate(values, start=spec["first_id"])}

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Return the inputs of the model by name, each a list with one entry for each row."""
        return {spec["name"]: [self.encode_row(spec, row) for row in rows] for spec in self.encoding["inputs"]}

    def encode_row(self, spec: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """Return the entry of one input for one row."""
        if spec["kind"] == "numbers":
            return self.numbers(row)
        ids = self.ids[spec["name"]]
        if spec["kind"] == "items":
            known = [ids[text] for text in map(canonical_text, row["history"] or ()) if text in ids]
            last = known[-spec["max_length"] :]
            return [spec["padding_id"]] * (spec["max_length"] - len(last)) + last
        value = row[spec["columns"][0]]
        if spec["kind"] == "id":
            text = canonical_text(value)
            return spec["unknown_id"] if text is None else ids.get(text, spec["unknown_id"])
        texts = [text for text in list_texts(value, spec.get("separator")) if text is not None]
        texts = [text for text in texts if text not in self.missing][: spec["max_length"]]
        found = [ids.get(text, spec["unknown_id"]) for text in texts]
        return found + [spec["padding_id"]] * (spec["max_length"] - len(found))

    def numbers(self, row: Mapping[str, Any]) -> list[float]:
        """Return the numeric fields, and then the numbers of vectors, centered and scaled; 0 where one is missing."""
        schema = self.encoding["schema"]
        numbers = {name: to_number(row[name], self.missing) for name in schema["numeric"]}
        for vector in schema["vectors"]:
            values = row[vector["name"]] or [None] * vector["size"]
            if len(values) != vector["size"]:
                raise SystemExit(f"'{vector['name']}' contains {len(values)} numbers, not {vector['size']}.")
            numbers |= {f"{vector['name']}_{i}": value for i, value in enumerate(values)}
        means, stds = self.encoding["means"], self.encoding["stds"]
        return [0.0 if x is None else to_float32((float(x) - means[n]) / stds[n]) for n, x in numbers.items()]


def canonical_text(value: Any) -> str | None:
    """Return the text with which a vocabulary looks up a value; None if it is missing."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value)
    text = str(value)
    if PLAIN.fullmatch(text):
        text = text.rstrip("0").rstrip(".")
    elif SCIENTIFIC.fullmatch(text) and math.isfinite(float(text)):
        return float_text(float(text))
    elif text in BOOLEANS:
        return text.lower()
    return "0" if text == "-0" else text


def float_text(number: float) -> str:
    """Return all digits of an integer, and other numbers as JavaScript writes them, which has an exponent below 1e-6."""
    if abs(number) >= 1e21:
        return repr(number)
    if number == int(number):
        return str(int(number))
    if abs(number) >= 1e-6:
        return format(Decimal(repr(number)), "f")
    mantissa, _, exponent = repr(number).partition("e-")
    return f"{mantissa}e-{int(exponent)}"  # 1e-7, where Python writes 1e-07


def list_texts(value: Any, separator: str | None) -> list[str | None]:
    """Return the strings of a list, or of a text that a separator divides."""
    if value is None:
        return []
    if separator is None:
        return [canonical_text(each) for each in value]
    return (
        [canonical_text(part.strip(WHITE_SPACE)) for part in value.split(separator)]
        if isinstance(value, str)
        else [canonical_text(value)]
    )


def to_number(value: Any, missing: Sequence[str]) -> float | None:
    """Return the number of a value; None if it is missing or not a number."""
    if value is None or (isinstance(value, str) and value.strip(WHITE_SPACE) in missing):
        return None
    number = number_of_text(value.strip(WHITE_SPACE)) if isinstance(value, str) else float(value)
    return None if number is None or number in map(plain_number, missing) else number


def number_of_text(text: str) -> float | None:
    """Return the number of a text: a decimal, a date as days since 1970, or a boolean; None for another text."""
    if (number := plain_number(text)) is not None:
        return number
    if DECIMAL_COMMA.fullmatch(text):
        return float(text.replace(",", "."))
    if found := DATE.fullmatch(text):
        hour, minute, second = (int(part or 0) for part in found.groups()[1:])
        try:
            days = (datetime.date.fromisoformat(found[1]) - DAY_ZERO).days
        except ValueError:  # such as February 30
            return None
        return (days * 86_400 + hour * 3600 + minute * 60 + second) / 86_400
    return BOOLEANS.get(text)


def plain_number(text: str) -> float | None:
    """Return the number in a text, including infinity; None for another text."""
    return float(text) if NUMBER.fullmatch(text) or INFINITE.fullmatch(text) else None


def to_float32(number: float) -> float:
    """Return the float32 that is nearest to a number."""
    try:
        return struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)


def as_word(value: Any) -> Any:
    """Return lists in which numbers without a JSON form are words."""
    if isinstance(value, list):
        return [as_word(each) for each in value]
    words = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return words.get(value, value)


def rounded(value: Any) -> Any:
    """Return an entry of `inputs` in the file of raw rows with its numbers as float32."""
    return [to_float32(float(each)) for each in value] if isinstance(value, list) else value


def main(bundle: str, file: str | None = None) -> bool:
    """Encode the rows of `file` and print them, or those of the bundle and compare; return whether all are equal."""
    encoder = RowEncoder(json.loads((Path(bundle) / "encoding.json").read_text(encoding="utf-8")))
    if file is not None:
        encoded = encoder.encode(json.loads(Path(file).read_text(encoding="utf-8")))
        print(json.dumps({name: as_word(rows) for name, rows in encoded.items()}))
        return True
    golden = json.loads((Path(bundle) / "samples" / "raw-rows.json").read_text(encoding="utf-8"))
    rows, equal = golden["rows"], True
    for name, entries in encoder.encode(rows).items():
        same = sum(mine == rounded(given) for mine, given in zip(entries, golden["inputs"][name], strict=True))
        print(f"{name}: {same} of {len(rows)} rows equal")
        equal = equal and same == len(rows)
    return equal


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("Usage: python encode_rows.py BUNDLE [rows.json]")
    sys.exit(0 if main(*sys.argv[1:]) else 1)
