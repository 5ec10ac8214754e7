"""What each command prints under `--json` follows the published schema of the command."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recprune_export.cli import main
from recprune_export.cli.json_output.output_schemas import OUTPUTS, format_output_schema, make_output_schema
from recprune_export.cli.json_output.reference_page import format_reference_page
from tests.bundle.archive.test_manifest_signature import key_pair
from tests.jobs import QUICK_OPTIONS, invoke

DOCS = Path(__file__).parents[3] / "docs" / "json-output"
QUICK = [*QUICK_OPTIONS, "--quick"]
BRIEF = ["--latency-batch-sizes", "1", "--time-limit", "0", "--max-regression", "900%"]
NO_COSTS = ["--limit", "load time=off", "--limit", "peak memory=off"]
SWEEP = ["sweep", "{model}", "--data", "{rows}", *QUICK, "--sparsities", "0.5", "--byte-fractions", "none"]

# {model}, {rows}, {bundle}, {towers}, {key} and {new} are files of the fixtures, and a folder for what is written.
RUNS = {
    "check": ["check", "{bundle}", "--against", "{bundle}", *BRIEF, *NO_COSTS],
    "check: calibrate": ["check", "{bundle}", "--calibrate", *BRIEF],
    "compress": ["compress", "{model}", "--data", "{rows}", *QUICK, "-o", "{new}/ctr"],
    "compress: no data": ["compress", "{model}", *QUICK, "-o", "{new}/ctr"],
    "compress: dry run": ["compress", "{model}", "--data", "{rows}", "--dry-run"],
    "doctor": ["doctor", "--no-run"],
    "generate": ["generate", "--rows", "50", "-o", "{new}/rows.csv"],
    "inspect: model": ["inspect", "{model}", "--fields"],
    "inspect: scores": ["inspect", "{model}", "--scores"],
    "inspect: bundle": ["inspect", "{bundle}", "--latency-batch-sizes", "1,64"],
    "inspect: onnx": ["inspect", "{bundle}/model.onnx"],
    "pack": ["pack", "{bundle}", "-o", "{new}/ctr.tar.zst"],
    "predict": ["predict", "{bundle}", "--data", "{rows}", "-o", "{new}/scores.parquet"],
    "predict: folder": ["predict", "{bundle}", "--data", "{rows}", "-o", "{new}/scores"],
    "profile": ["profile", "{bundle}", "--batch-size", "2"],
    "reapply": ["reapply", "{bundle}", "--model", "{model}", "--data", "{rows}", "--quick", "-o", "{new}/again"],
    "refresh": ["refresh", "{bundle}", "--data", "{rows}", "--check-only"],
    "report": ["report", "{bundle}", "-o", "{new}/page.html"],
    "report: two": ["report", "{bundle}", "{bundle}", "-o", "{new}/page.html"],
    "sign": ["sign", "{new}/copy", "--private-key", "{key}"],
    "split": ["split", "{towers}", "-o", "{new}/split"],
    "sweep": [*SWEEP, "-o", "{new}/sweep"],
    "sweep: shard": [*SWEEP, "--shard", "1/2", "-o", "{new}/sweep"],
    "train": ["train", "--data", "{rows}", "--label", "clicked", "--hidden", "4", "--epochs", "1", "-o", "{new}/m.pt"],
    "verify": ["verify", "{bundle}"],
    "verify: latency": [
        "verify",
        "{bundle}",
        "--latency",
        "--latency-batch-sizes",
        "1",
        "--seconds",
        "0.1",
        "--qps",
        "50",
    ],
}

SLOW = {"check: calibrate", "compress: no data", "sweep", "verify: latency"}


@pytest.fixture(scope="module")
def towers(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    words = ["--data", clicks_file, "--label", "clicked", "--dim", 4, "--hidden", "8", "--epochs", 1]
    assert invoke("train", "--recommender", "two_tower", *words, "-o", folder / "two.pt").exit_code == 0
    done = invoke("compress", folder / "two.pt", *QUICK, "--no-triton", "-o", folder / "bundle")
    assert done.exit_code == 0, done.stderr
    return folder / "bundle"


def parse(text: str) -> Any:
    """Return the one document that the text holds; NaN and the infinities are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def check(command: str, values: Any) -> None:
    validator = jsonschema.Draft202012Validator(make_output_schema(command))
    faults = list(validator.iter_errors(values))
    assert not faults, [jsonschema.exceptions.best_match(faults).message, *map(str, faults[0].context[:9])][:4]


def test_every_command_with_json_has_a_schema() -> None:
    assert set(OUTPUTS) == {n for n, c in main.commands.items() if any("--json" in p.opts for p in c.params)}
    assert set(OUTPUTS) == {name.partition(":")[0] for name in RUNS}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in RUNS])
def test_a_result_is_one_document_of_the_schema(
    name: str, checkpoint: Path, clicks_file: Path, bundle: Path, towers: Path, tmp_path: Path
) -> None:
    files = {"model": checkpoint, "rows": clicks_file, "bundle": bundle, "towers": towers, "new": tmp_path}
    command = name.partition(":")[0]
    if command == "sign":
        shutil.copytree(bundle, tmp_path / "copy")
        files["key"] = key_pair(tmp_path, "key")[0]
    done = invoke(*(word.format(**files) for word in RUNS[name]), "--json", "--quiet")
    assert done.exit_code in (0, 1, 5), (done.output, done.exception)
    values = parse(done.stdout)
    check(command, values)
    assert "error" not in values
    assert not done.stderr or done.stderr.startswith("Error: ")


@pytest.mark.parametrize("command", OUTPUTS)
def test_an_error_is_one_document_of_the_schema(command: str) -> None:
    for words in ([command, "--no-such-option"], [command, "--data", "nowhere"], [command, "nowhere"]):
        done = invoke(*words, "--json", "-q")
        values = parse(done.stdout)
        check(command, values)
        assert values["error"]["exit_code"] == done.exit_code
        assert values["error"]["message"] in done.stderr


@pytest.mark.parametrize("command", OUTPUTS)
def test_the_published_schema_is_that_of_the_types(command: str) -> None:
    assert (DOCS / f"{command}.schema.json").read_text(encoding="utf-8") == format_output_schema(command), (
        "run `make schema`"
    )
    jsonschema.Draft202012Validator.check_schema(make_output_schema(command))
    assert {path.name for path in DOCS.iterdir()} == {f"{name}.schema.json" for name in OUTPUTS}


def test_the_page_is_made_of_the_schemas() -> None:
    page = DOCS.parent / "reference" / "json-output.md"
    assert page.read_text(encoding="utf-8") == format_reference_page(), "run `make schema`"


def list_keys() -> Iterator[tuple[str, str, Any]]:
    """Yield command, key and schema of each key at the top of an output."""
    for command in OUTPUTS:
        schema = make_output_schema(command)
        for part in schema["anyOf"]:
            for key, value in schema["$defs"][part["$ref"].rpartition("/")[2]]["properties"].items():
                yield command, key, value


def test_a_key_has_one_meaning_in_all_commands() -> None:
    meanings: dict[str, dict[str, list[str]]] = {}
    for command, key, value in list_keys():
        meanings.setdefault(key, {}).setdefault(json.dumps(value, sort_keys=True), []).append(command)
    assert {key: list(found.values()) for key, found in meanings.items() if len(found) > 1} == {}
