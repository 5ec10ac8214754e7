"""Serve a bundle with ONNX Runtime and NumPy alone: raw values in, scores out.

    pip install onnxruntime numpy
    python serve_onnxruntime.py artifacts/model < rows.jsonl

reads one JSON object per line with the fields that the model was trained on, null where a value is missing; for a model of the rows
that `recprune-export generate` writes:

    {"user": "u17", "item": "i42", "category": "category 3", "device": "phone", "tags": "sale|eco", "age": 31.5, "price": 20}

It prints one JSON object per line with the outputs of the model; the bundle's README says what they are, such as logits. A row that
lacks a field, or has one of another type, is answered with {"error": ...}, and the exit code is 1 then. Copy `Recommender` into your
service; it may be called from several threads at once.

The bundle's `encoding.json` (written for models that `recprune-export train` made) says how raw values become inputs:

- a categorical field is one id: 0 for a value that training did not show, 1, 2, ... for those in its vocabulary;
- a multi-valued field is a list of ids, 0 at the end where it is short, 1 for unknown values, 2, 3, ... for the others;
- values are looked up by their text, which `text` makes: 12, 12.0, "12" and "12.0" are one id, "007" is another;
- numeric fields arrive together as `numeric`, centred and scaled, 0 where a number is missing; the numbers of vectors come last.
"""

import json
import os
import re
import sys
from decimal import Decimal
from pathlib import Path

# Before the import: without it ONNX Runtime writes a device id and sends usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

BATCH = 256


class Recommender:
    """A bundle, loaded: give it rows, get its outputs."""

    def __init__(self, bundle):
        bundle = Path(bundle)
        if not (bundle / "manifest.json").is_file():
            raise SystemExit(f"{bundle} is no bundle: it has no manifest.json.")
        manifest = json.loads((bundle / "manifest.json").read_text())
        if manifest["encoding"] is None or not manifest["encoding"]["vocabularies"].keys().isdisjoint({"history"}):
            raise SystemExit(f"{bundle} takes arrays, not rows of raw values: see its README.md.")
        encoding = json.loads((bundle / "encoding.json").read_text())
        self.schema, self.means, self.stds = encoding["schema"], encoding["means"], encoding["stds"]
        several = {field["name"] for field in self.schema["multi_valued"]}
        self.ids = {
            name: {value: position for position, value in enumerate(values, start=2 if name in several else 1)}
            for name, values in encoding["vocabularies"].items()
        }
        options, stated = ort.SessionOptions(), manifest["session"].get("options", {})
        options.intra_op_num_threads = stated.get("threads", 1)
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = stated.get("arena", True)
        self.session = ort.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, rows):
        """Return the outputs for a list of rows, each a dict of raw values: arrays by name, one row for each row."""
        return dict(zip(self.outputs, self.session.run(None, self.request(rows)), strict=True))

    def fault(self, row):
        """Return what is wrong with a row, in one sentence, or None."""
        if not isinstance(row, dict):
            return f"A row is an object with the fields {', '.join(self.fields())}, not {json.dumps(row)[:60]}."
        for name, (expected, fits) in self.fields().items():
            if name not in row:
                return f"The field '{name}' is missing: give {expected}, or null. The row has {', '.join(row) or 'no field'}."
            if row[name] is not None and not fits(row[name]):
                return f"The field '{name}' must be {expected}, or null, not {json.dumps(row[name])[:60]}."
        return None

    def fields(self):
        """Return each field that a row must have: what is expected, and a function that tells whether a value is that."""
        schema = self.schema
        fields = dict.fromkeys(schema["categorical"], ("a text or a number", is_scalar))
        for field in schema["multi_valued"]:
            expected = f"a text with '{field['separator']}' between values", is_scalar
            fields[field["name"]] = (
                expected if field["separator"] else ("a list of texts or numbers", is_list(is_scalar))
            )
        fields |= dict.fromkeys(schema["numeric"], ("a number", is_number))
        for vector in schema.get("vectors", ()):
            fits = is_list(is_number, vector["size"])
            fields[vector["name"]] = (f"a list of {vector['size']} numbers", fits)
        return fields

    def request(self, rows):
        """Return what the model takes: int64 [rows], int64 [rows, max_length], float32 [rows, numeric fields]."""
        request = {}
        for name in self.schema["categorical"]:
            ids = self.ids[name]
            request[name] = np.array([ids.get(text(row[name]), 0) for row in rows], dtype=np.int64)
        for field in self.schema["multi_valued"]:
            ids, padded = self.ids[field["name"]], np.zeros((len(rows), field["max_length"]), dtype=np.int64)
            for number, row in enumerate(rows):
                found = values(row[field["name"]], field["separator"], self.schema.get("missing", ()))[
                    : field["max_length"]
                ]
                padded[number, : len(found)] = [ids.get(value, 1) for value in found]
            request[field["name"]] = padded
        columns = [[scaled(row[n], self.means[n], self.stds[n]) for row in rows] for n in self.schema["numeric"]]
        for vector in self.schema.get("vectors", ()):
            for i in range(vector["size"]):
                name = f"{vector['name']}_{i}"
                numbers = [(row[vector["name"]] or [None] * vector["size"])[i] for row in rows]
                columns.append([scaled(number, self.means[name], self.stds[name]) for number in numbers])
        if columns:
            request["numeric"] = np.array(columns, dtype=np.float64).T.astype(np.float32)
        return request


PLAIN = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]*")
WHITE_SPACE = " \t\n\v\f\r"
SCIENTIFIC = re.compile(r"-?[0-9](\.[0-9]+[eE][+-]?|[eE][+-])[0-9]+")


def text(value):
    """A raw value as vocabularies spell it, None where it is missing: `canonical_text_rule` in encoding.json says how."""
    if isinstance(value, bool) or value in ("True", "TRUE", "False", "FALSE"):
        return str(value).lower()
    if isinstance(value, str):
        if PLAIN.fullmatch(value):
            value = value.rstrip("0").rstrip(".")
        elif SCIENTIFIC.fullmatch(value):
            return text(float(value))
        return "0" if value == "-0" else value or None
    if isinstance(value, float) and value == value and abs(value) < 1e21:
        if value == int(value):
            return str(int(value))
        mantissa, mark, exponent = repr(value).partition("e")
        if not mark or abs(value) >= 1e-6:
            return format(Decimal(repr(value)), "f")
        return f"{mantissa}e{int(exponent)}"  # 1e-7, where Python writes 1e-07
    return None if value is None or value != value else str(value)


def values(value, separator, missing=()):
    """The texts of a multi-valued field: of a list, or of a text that a separator divides; missing ones are left out."""
    if separator is None or value is None:
        several = list(value or ())
    else:
        several = [part.strip(WHITE_SPACE) for part in value.split(separator)] if isinstance(value, str) else [value]
    texts = [text(each) for each in several]
    return [each for each in texts if each is not None and each not in missing]


def scaled(value, mean, std):
    """A number centred and scaled; 0, the mean, where it is missing."""
    return 0.0 if value is None or value != value else (float(value) - mean) / std


def is_scalar(value):
    """Whether a value is one text or number."""
    return isinstance(value, str | int | float)


def is_number(value):
    """Whether a value is a number that a model can take; NaN is a missing one."""
    return isinstance(value, int | float) and abs(value) != float("inf")


def is_list(fits, size=None):
    """Return a function that tells whether a value is a list of `size` elements that all fit or are missing."""
    return lambda value: (
        isinstance(value, list)
        and size in (None, len(value))
        and all(element is None or fits(element) for element in value)
    )


def answer(recommend, lines):
    """Return an object for each line: the outputs of the model, or the error of a row that it cannot take."""
    answers, rows = [], {}
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            fault = recommend.fault(row)
        except ValueError as error:
            row, fault = None, f"The line is not JSON: {error}."
        answers.append({"error": fault})
        if fault is None:
            rows[number] = row
    outputs = recommend(list(rows.values())) if rows else {}
    for position, number in enumerate(rows):
        answers[number] = {name: array[position].tolist() for name, array in outputs.items()}
    return answers


def main(bundle):
    """Answer standard input, line by line."""
    recommend, lines = Recommender(bundle), [line for line in sys.stdin if line.strip()]
    errors = 0
    for start in range(0, len(lines), BATCH):
        for answered in answer(recommend, lines[start : start + BATCH]):
            errors += "error" in answered
            print(json.dumps(answered))
    if errors:
        raise SystemExit(f"{errors} of {len(lines)} rows have no score; their answers say why.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Usage: python serve_onnxruntime.py BUNDLE < rows.jsonl")
    main(sys.argv[1])
