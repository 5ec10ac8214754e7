"""The plain example gives the scores that `predict` gives, with ONNX Runtime and NumPy alone."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.prediction import predict
from tests.bundle.complete import write
from tests.prediction.test_predict import raw

EXAMPLE = Path(__file__).parents[2] / "examples/serve_onnxruntime.py"


def answers(bundle: Path, lines: str) -> subprocess.CompletedProcess[str]:
    """Run the example as a program that finds none of our packages."""
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(['recprune_export', 'polars', 'torch', 'onnx', 'pydantic']))\n"
        f"sys.argv = ['serve', {str(bundle)!r}]; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("count", [1, 700])
def test_the_example_and_predict_give_equal_scores(tmp_path: Path, count: int) -> None:
    bundle, rows = write(tmp_path / "bundle"), raw(count, seed=3)
    rows.write_parquet(tmp_path / "rows.parquet")
    predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
    done = answers(bundle, "\n".join(json.dumps(row) for row in rows.to_dicts()))
    assert done.returncode == 0, done.stderr
    scores = np.array([json.loads(line)["y"] for line in done.stdout.splitlines()], dtype=np.float32)
    np.testing.assert_array_equal(scores, pl.read_parquet(tmp_path / "scores.parquet")["y"].to_numpy())


def test_another_kind_of_bundle_is_refused(tmp_path: Path) -> None:
    from tests.bundle.samples import write as write_plain

    done = answers(write_plain(tmp_path / "bundle"), "{}")
    assert done.returncode == 1
    assert "takes arrays" in done.stderr


ROW = {"user": "ann", "tags": "red|blue", "age": 31.5, "price": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": ...}, "The field 'age' is missing: give a number, or null. The row has user, tags, price."),
        ({"user": ..., "User": "ann"}, "'user' is missing: give a text or a number"),
        ({"age": "old"}, "The field 'age' must be a number, or null, not \"old\""),
        ({"tags": ["red"]}, "The field 'tags' must be a text with '|' between values"),
        ({"user": {"id": 7}}, "The field 'user' must be a text or a number"),
        ({"price": float("inf")}, "The field 'price' must be a number"),
    ],
)
def test_a_row_that_does_not_fit_is_answered_with_its_field(
    change: dict[str, object], words: str, served: Callable[[str], list[dict[str, object]]]
) -> None:
    row = {name: value for name, value in {**ROW, **change}.items() if value is not ...}
    lines = served("\n".join(json.dumps(line) for line in (ROW, row, ROW)))
    assert words in str(lines[1]["error"])
    assert lines[0] == lines[2]
    assert lines[0].keys() == {"y"}


@pytest.mark.parametrize("line", ["not json", "[1, 2]", "7", "null", "{}"])
def test_a_line_that_is_no_row_is_answered(line: str, served: Callable[[str], list[dict[str, object]]]) -> None:
    (answered,) = served(line)
    assert answered.keys() == {"error"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, object]]]:
    """Answer lines in this process."""
    example = runpy.run_path(str(EXAMPLE))
    recommend = example["Recommender"](write(tmp_path_factory.mktemp("served") / "bundle"))
    return lambda lines: list(example["answer"](recommend, lines.splitlines()))


def test_the_program_ends_with_1_where_a_row_has_no_score_and_without_a_traceback(tmp_path: Path) -> None:
    done = answers(write(tmp_path / "bundle"), json.dumps(ROW) + '\n{"user": "ann"}\n')
    assert done.returncode == 1
    assert [list(json.loads(line)) for line in done.stdout.splitlines()] == [["y"], ["error"]]
    assert done.stderr.strip() == "1 of 2 rows have no score; their answers say why."
    done = answers(tmp_path, "")
    assert (done.returncode, "has no manifest.json" in done.stderr) == (1, True)


def test_the_row_of_its_docstring_has_a_score_where_a_model_was_trained_on_generated_rows(bundle: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    (row,) = (line.strip() for line in example["__doc__"].splitlines() if line.strip().startswith('{"user"'))
    (answered,) = example["answer"](example["Recommender"](bundle), [row])
    assert answered.keys() == {"clicked"}
