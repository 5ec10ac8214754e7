"""`train` says how it took each column, on the screen, as JSON and in the checkpoint."""

import json
from pathlib import Path

import numpy as np
import polars as pl
from click.testing import CliRunner

from recprune_export.cli import main
from recprune_export.data import encoding_summary
from recprune_export.training import load_checkpoint


def test_each_column_is_listed_with_its_role(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), tmp_path / "rows.parquet"
    shop = pl.Series(rng.integers(1, 9, 300).astype(float)).set(pl.Series(rng.random(300) < 0.1), None)
    columns = {"shop": shop, "picture": rng.normal(size=(300, 3)).tolist(), "code": [b"x"] * 300}
    pl.DataFrame({**columns, "secret": "x", "click": rng.integers(0, 2, 300)}).write_parquet(rows)
    words = [
        "train",
        "--data",
        str(rows),
        "--label",
        "click",
        "--categorical",
        "shop",
        "--ignore",
        "secret",
        "--epochs",
        "1",
    ]
    words += ["--dim", "4", "--hidden", "8", "-o", str(tmp_path / "model.pt")]
    printed = CliRunner().invoke(main, words)
    assert printed.exit_code == 0, printed.output
    assert "'shop' is stored as Float64 and is read as integer ids" in printed.stderr
    table = {line.split()[0]: line.split() for line in printed.stdout.splitlines() if line.strip()}
    values = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    roles = {"shop": "categorical", "picture": "vector", "code": "excluded", "secret": "ignored", "click": "label"}
    assert {column["name"]: column["role"] for column in values["columns"]} == roles
    assert all(role in table[name] for name, role in roles.items())
    (stated,) = [column for column in values["columns"] if column["name"] == "shop"]
    assert (stated["dtype"], stated["values"]) == ("Float64", 8)
    assert stated["missing"] == shop.null_count() / 300
    encoder = load_checkpoint(tmp_path / "model.pt").encoder
    summary = encoding_summary(encoder.to_dict(), "encoding.json")
    assert summary["columns"] == values["columns"]
    assert summary["numeric"] == ["picture_0", "picture_1", "picture_2"]
    assert encoder.notes == tuple(values["notes"])[: len(encoder.notes)]
