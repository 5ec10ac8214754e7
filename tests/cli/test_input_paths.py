"""A mistyped path or command is answered at once, with the nearest one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recprune_export.cli.input_paths import suggest_neighbor

MISTYPED = {
    "nomodel.pt": (3, "nomodel.pt does not exist"),
    "model.tp": (3, "did you mean 'model.pt'?"),
    "--sparsity 0.5 nomodel.pt": (3, "nomodel.pt does not exist"),
    "somthing": (3, "see --help for the commands"),
    "veryfy": (2, "Did you mean 'verify'?"),
    "veryfy b": (2, "Did you mean 'verify'?"),
    "Train --data rows.csv": (2, "Did you mean 'train'?"),
    "train --data nothing.csv --label x": (3, "nothing.csv does not exist"),
    "train --data row.csv --label x": (3, "did you mean 'rows.csv'?"),
    "compress model.pt --data nothing.parquet": (3, "nothing.parquet does not exist"),
    "compress model.pt --plan nothing.json": (3, "give the plan.json"),
    "sweep model.pt --data nothing.parquet": (3, "nothing.parquet does not exist"),
    "predict nobundle --data rows.csv -o s.csv": (3, "nobundle does not exist"),
    "verify nobundle": (3, "nobundle does not exist"),
    "report nobundle": (3, "nobundle does not exist"),
    "pack nobundle": (3, "nobundle does not exist"),
    "sign nobundle --private-key rows.csv": (3, "nobundle does not exist"),
    "compress model.pt --sign nokey.pem": (3, "nokey.pem does not exist"),
    "compress model.pt --item-ids ids.csv": (3, "ids.csv does not exist"),
    "compress model.pt --vocabulary user=row.csv": (3, "did you mean 'rows.csv'?"),
    "compress model.pt --vocabulary user": (2, "must be INPUT=FILE"),
    "sign model.pt --private-key nokey.pem": (3, "nokey.pem does not exist"),
    "verify model.pt --public-key nokey.pem": (3, "nokey.pem does not exist"),
    "train --data rows.csv --recommender dlmr": (2, "did you mean 'dlrm'?"),
    "profile nobundle": (3, "nobundle does not exist"),
    "inspect nobundle": (3, "nobundle does not exist"),
    "refresh nobundle --data rows.csv": (3, "nobundle does not exist"),
    "check nothing.onnx --against model.pt": (3, "nothing.onnx does not exist"),
    "check model.pt rows.csv": (2, "write `check model.pt --against rows.csv`"),
    "verify --latncy model.pt": (2, "'--latency'"),
}
# Runs every command in one process, and tells which heavy packages have been imported by then.
PROGRAM = """
import json, sys
from click.testing import CliRunner
from recprune_export.cli import main
done = [CliRunner().invoke(main, words.split()) for words in json.loads(sys.argv[1])]
heavy = {"torch", "polars", "numpy", "pydantic", "onnxruntime"} & set(sys.modules)
print(json.dumps({"results": [[d.exit_code, d.stderr] for d in done], "heavy": sorted(heavy)}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "model.pt").write_text("no model")
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    words = [sys.executable, "-c", PROGRAM, json.dumps(list(MISTYPED))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder)
    values = json.loads(done.stdout)
    assert values["heavy"] == []
    return dict(zip(MISTYPED, values["results"], strict=True))


@pytest.mark.parametrize("words", MISTYPED)
def test_a_mistyped_word_is_named_before_anything_heavy_is_imported(
    words: str, answers: dict[str, tuple[int, str]]
) -> None:
    code, text = MISTYPED[words]
    assert answers[words][0] == code
    assert text in answers[words][1]


def test_a_file_with_the_name_of_a_command_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from recprune_export.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "verfy").write_text("")
    assert "an empty file" in CliRunner().invoke(main, ["verfy"]).stderr


def test_neighbors_are_looked_for_in_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "Rows.parquet").write_text("")
    assert suggest_neighbor(tmp_path / "rows.parquet") == tmp_path / "Rows.parquet"
    assert suggest_neighbor(tmp_path / "missing" / "rows.parquet") is None
