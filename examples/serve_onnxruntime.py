"""Serve a bundle with ONNX Runtime and NumPy alone: raw values in, scores out.

    pip install onnxruntime numpy
    python serve_onnxruntime.py artifacts/model < rows.jsonl

reads one JSON object per line, such as {"user": "u17", "item": 42, "tags": "red|blue", "age": 31.5}, and prints one JSON object
per line with the outputs of the model. Copy `Recommender` into your service; it may be called from several threads at once.

The bundle's `encoding.json` (written for models that `recprune-export train` made) says how raw values become inputs:

- a categorical field is one id: 0 for a value that training did not show, 1, 2, ... for those in its vocabulary;
- a multi-valued field is a list of ids, 0 at the end where it is short, 1 for unknown values, 2, 3, ... for the others;
- values are looked up by their text, which `text` makes: 12, 12.0, "12" and "12.0" are one id, "007" is another;
- numeric fields arrive together as `numeric`, centred and scaled, 0 where a number is missing; the numbers of vectors come last.
"""

import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import onnxruntime as ort

BATCH = 256


class Recommender:
    """A bundle, loaded: give it rows, get its outputs."""

    def __init__(self, bundle):
        bundle = Path(bundle)
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
    if isinstance(value, float) and value == value and abs(value) < 1e38:
        if value == int(value):
            return str(int(value))
        mantissa, mark, exponent = repr(value).partition("e")
        if not mark or abs(value) >= 1e-5:
            return format(Decimal(repr(value)), "f")
        return f"{mantissa}e{int(exponent)}"  # 1e-7, where Python writes 1e-07
    return None if value is None or value != value else str(value)


def values(value, separator, missing=()):
    """The texts of a multi-valued field: of a list, or of a text that a separator divides; missing ones are left out."""
    several = list(value or ()) if value is None or separator is None else str(value).split(separator)
    texts = [text(each.strip() if separator and isinstance(each, str) else each) for each in several]
    return [each for each in texts if each is not None and each not in missing]


def scaled(value, mean, std):
    """A number centred and scaled; 0, the mean, where it is missing."""
    return 0.0 if value is None or value != value else (float(value) - mean) / std


def main(bundle):
    """Answer standard input, line by line."""
    recommend, rows = Recommender(bundle), [json.loads(line) for line in sys.stdin if line.strip()]
    for start in range(0, len(rows), BATCH):
        answers = recommend(rows[start : start + BATCH])
        for number in range(len(rows[start : start + BATCH])):
            print(json.dumps({name: array[number].tolist() for name, array in answers.items()}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Usage: python serve_onnxruntime.py BUNDLE < rows.jsonl")
    main(sys.argv[1])
