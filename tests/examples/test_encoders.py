"""Encoders that know nothing but a bundle's `encoding.json` agree with ours: in JavaScript, and in Python without packages."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recprune_export.api import compress
from recprune_export.bundle import ENCODING, verify
from recprune_export.bundle.raw_rows import RAW_ROWS, from_json, make_raw_rows
from recprune_export.data import Encoder, SchemaOverrides, SequenceEncoder, encode_json_rows
from recprune_export.data.encoding import read_encoder
from recprune_export.program import BATCH, Input, Output, Signature
from recprune_export.training import train
from tests.data.encoding.random_rows import (
    draw_field_rows,
    draw_histories,
    make_field_encoder,
    make_history_encoder,
)
from tests.jobs import QUICK

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVING = Path(__file__).parents[2] / "recprune_export/bundle/servers/serving"
COMMANDS = {
    "plain Python": [sys.executable, "-I", "-S", str(SERVING / "encode_rows.py")],
    "JavaScript": ["node", str(EXAMPLES / "encode_in_javascript/encode.mjs")],
}
ENCODERS: dict[str, Callable[[], Encoder | SequenceEncoder]] = {
    "fields": make_field_encoder,
    "histories": make_history_encoder,
}
ROWS: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {"fields": draw_field_rows, "histories": draw_histories}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> list[str]:
    words = COMMANDS[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    return words


def run(command: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


def write_encoding(folder: Path, encoder: Encoder | SequenceEncoder) -> Path:
    """Write the two files of a bundle that an encoder reads; the model answers 0."""
    (folder / "samples").mkdir()
    values = json.loads(json.dumps(encoder.to_dict()))
    (folder / ENCODING).write_text(json.dumps(values), encoding="utf-8")
    signature = Signature(
        tuple(Input(i.name, i.dtype, (BATCH,)) for i in encoder.inputs), (Output("y", "float32", (BATCH,)),)
    )
    raw_rows = make_raw_rows(values, signature, lambda r: {"y": np.zeros(len(next(iter(r.values()))), np.float32)})
    (folder / RAW_ROWS).write_bytes(raw_rows)
    return folder


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_thousand_odd_rows_are_encoded_alike(tmp_path: Path, command: list[str], kind: str) -> None:
    encoder, rows = ENCODERS[kind](), ROWS[kind](1000, 0)
    bundle = write_encoding(tmp_path, encoder)
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    done = run(command, bundle, tmp_path / "rows.json")
    assert done.returncode == 0, done.stderr
    encoded = json.loads(done.stdout)
    ours = encode_json_rows(encoder, rows)
    assert encoded.keys() == ours.keys()
    for name, expected in ours.items():
        given = from_json(encoded[name], expected.dtype.name)
        differ = [i for i, (a, b) in enumerate(zip(given, expected, strict=True)) if not np.array_equal(a, b)]
        assert not differ, (name, rows[differ[0]], given[differ[0]], expected[differ[0]])
        assert len(np.unique(expected)) > 10


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_raw_rows_of_a_bundle_are_the_test(tmp_path: Path, command: list[str], kind: str) -> None:
    bundle = write_encoding(tmp_path, ENCODERS[kind]())
    done = run(command, bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((bundle / RAW_ROWS).read_text(encoding="utf-8"))
    values["inputs"]["shop" if kind == "fields" else "history"][3] = 5 if kind == "fields" else [5] * 5
    (bundle / RAW_ROWS).write_text(json.dumps(values), encoding="utf-8")
    done = run(command, bundle)
    assert done.returncode == 1
    assert "31 of 32 rows equal" in done.stdout


def test_a_bundle_of_fields_has_raw_rows(command: list[str], bundle: Path) -> None:
    done = run(command, bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tags: 32 of 32 rows equal" in done.stdout
    assert verify(bundle).raw_rows == "valid"


@pytest.mark.slow
def test_a_bundle_of_vectors_and_lists_has_raw_rows(command: list[str], clicks_file: Path, tmp_path: Path) -> None:
    frame, rng = pl.read_parquet(clicks_file), np.random.default_rng(0)
    frame = frame.with_columns(
        pl.Series("picture", rng.normal(size=(len(frame), 4)).astype(np.float32).tolist()),
        pl.col("tags").str.split("|"),
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    options = {"dim": 8, "hidden": (16, 8)}
    train(tmp_path / "rows.parquet", "dlrm", tmp_path / "m.pt", SchemaOverrides(labels=("clicked",)), options, epochs=1)
    compress(tmp_path / "m.pt", target=tmp_path / "b", data=tmp_path / "rows.parquet", settings=QUICK)
    encoder = read_encoder(json.loads((tmp_path / "b" / ENCODING).read_text()))
    assert isinstance(encoder, Encoder)
    assert encoder.schema.vectors
    assert encoder.schema.multi_valued[0].separator is None
    done = run(command, tmp_path / "b")
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(tmp_path / "b").raw_rows == "valid"


@pytest.mark.slow
def test_a_bundle_of_histories_has_raw_rows(command: list[str], sequences_file: Path, tmp_path: Path) -> None:
    train(sequences_file, "sasrec", tmp_path / "m.pt", SchemaOverrides(), {"dim": 8}, epochs=1)
    compress(tmp_path / "m.pt", target=tmp_path / "b", data=sequences_file, settings=QUICK)
    done = run(command, tmp_path / "b")
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(tmp_path / "b").raw_rows == "valid"
