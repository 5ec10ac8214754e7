"""The examples that score many rows give the scores of a Predictor, of rows, histories and shared inputs; skipped without their library."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export import Predictor
from tests.bundle.complete import write
from tests.prediction.bundles import histories, write_history_bundle, write_shared_bundle
from tests.prediction.test_predict import raw

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "score_many_rows"
LIBRARIES = {"process_pool": "polars", "ray_data": "ray", "spark": "pyspark"}
BUNDLES = {"rows": (write, raw), "histories": (write_history_bundle, histories), "shared": (write_shared_bundle, raw)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("kind", BUNDLES)
def test_an_example_scores_every_row(name: str, kind: str, tmp_path: Path) -> None:
    if find_spec(LIBRARIES[name]) is None or (name != "process_pool" and find_spec("pyarrow") is None):
        pytest.skip(f"{LIBRARIES[name]} is not installed")
    make_bundle, make_rows = BUNDLES[kind]
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "rows").mkdir()
    parts = [make_rows(150, seed=number).with_columns(row=pl.lit(number * 150) + pl.col("row")) for number in range(4)]
    for number, part in enumerate(parts):
        part.write_parquet(tmp_path / "rows" / f"{number}.parquet")
    command = [
        sys.executable,
        str(FOLDER / f"{name}.py"),
        "bundle",
        "rows",
        "scores",
        "--workers",
        "2",
        "--keep",
        "row",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "600 rows" in done.stdout
    scores = pl.read_parquet(tmp_path / "scores" / "**" / "*.parquet").sort("row")
    expected = Predictor(bundle, keep=["row"])(pl.concat(parts))
    assert scores["row"].equals(expected["row"])
    column = expected.columns[1]
    width = np.ndim(expected[column].to_numpy())
    found = np.array(scores[column].to_list()) if width > 1 else scores[column].to_numpy()
    np.testing.assert_allclose(found, expected[column].to_numpy(), rtol=1e-5, atol=1e-5)
