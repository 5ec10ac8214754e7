"""The plain example gives the scores that `predict` gives, with ONNX Runtime and NumPy alone."""

import json
import subprocess
import sys
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
