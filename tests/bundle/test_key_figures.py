"""A figure that stands in more than one place is the same in all of them."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from recprune_export.bundle import read_manifest
from recprune_export.bundle.key_figures import describe_figures, describe_size, read_reduction
from recprune_export.cli import main
from recprune_export.cli.headline import print_headline
from recprune_export.evidence import Estimate
from recprune_export.number_formats import format_bytes, format_ratio, format_share
from recprune_export.onnx import count, reduction
from recprune_export.report.sections.latency import latency_section
from recprune_export.validation import find_speedup
from tests.bundle.samples import manifest

TAG = re.compile(r"<[^>]*>")


def read_page(path: Path) -> str:
    return TAG.sub(" ", path.read_text(encoding="utf-8")).replace("\u00a0", " ").replace(" %", "%")


def test_screen_readme_report_and_inspect_state_the_same_figures(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = read_manifest(bundle)
    size, speed = describe_figures(stated)
    print_headline(SimpleNamespace(manifest=stated, warnings=("busy",)))  # type: ignore[arg-type]
    printed = capsys.readouterr()
    readme, page = (bundle / "README.md").read_text(encoding="utf-8"), read_page(bundle / "report.html")
    for place in (printed.out, readme):
        assert size in place
        assert speed in place
    assert "Warning: busy" in printed.err
    dense, pruned = (count(bundle / f"{name}.onnx") for name in ("dense", "model"))
    gone = reduction(dense, pruned)
    assert read_reduction(stated) == gone
    assert stated.counts["reduction"] == gone.to_dict()
    for figure in (
        format_bytes(dense.bytes),
        format_bytes(pruned.bytes),
        format_share(gone.removed.parameters),
        format_share(gone.zeroed.parameters),
    ):
        for place in (printed.out, readme, page):
            assert figure in place
    speedup = find_speedup(stated.latency)
    assert speedup is not None
    assert stated.latency["speedup"] == speedup.to_dict()
    inspected = json.loads(
        CliRunner().invoke(main, ["inspect", str(bundle), "--json", "--latency-batch-sizes", "1,7"]).stdout
    )
    for batch, cost in inspected["costs"].items():
        assert (
            cost["operations"] == int(batch) * pruned.operations == int(batch) * stated.counts["pruned"]["operations"]
        )
    screen = CliRunner().invoke(main, ["inspect", str(bundle)]).stdout
    assert format_bytes(pruned.bytes) in screen


def test_the_floor_is_no_less_than_a_call_and_its_nodes_take(bundle: Path) -> None:
    inspected = json.loads(
        CliRunner().invoke(main, ["inspect", str(bundle), "--json", "--latency-batch-sizes", "1"]).stdout
    )
    screen = CliRunner().invoke(main, ["inspect", str(bundle)]).stdout
    (nodes,) = (int(text) for text in re.findall(r"(\d+) of them run", screen))
    assert inspected["counts"]["nodes"] - 2 <= nodes <= inspected["counts"]["nodes"]
    machine = inspected["machine"]
    assert inspected["costs"]["1"]["floor_milliseconds"] >= 1e3 * (
        machine["call_seconds"] + nodes * machine["node_seconds"]
    )


def test_every_ratio_of_the_manifest_has_an_interval(bundle: Path) -> None:
    latency, models = read_manifest(bundle).latency, read_manifest(bundle).cost["models"]
    tables = [latency[key] for key in ("ratios", "wall_ratios", "cpu_ratios")] + [latency["cold"]["ratios"]]
    ratios = [ratio for table in tables for by_pair in table.values() for ratio in by_pair.values()]
    assert ratios
    assert all(ratio["low"] <= ratio["estimate"] <= ratio["high"] for ratio in ratios)
    costs = [cost for by_batch in models.values() for cost in by_batch.values()]
    assert all(cost["interval"][0] <= cost["multiple"] <= cost["interval"][1] for cost in costs)


def test_the_report_gives_no_wall_ratio_of_cold_caches_of_a_busy_machine(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    quiet, busy = (
        latency_section(manifest.model_copy(update={"latency": {**manifest.latency, "clock": clock}}))
        for clock in ("wall", "cpu")
    )
    assert quiet is not None
    assert busy is not None
    cold = [next(t for t in section.tables if "Cold caches" in t.caption) for section in (quiet, busy)]
    assert ["×" in str(table.rows) for table in cold] == [True, False]


def test_a_larger_file_is_called_larger() -> None:
    def counts(parameters: int, zeros: int, size: int) -> dict[str, object]:
        weights = {"parameters": parameters, "nonzero": parameters - zeros}
        return {"tables": weights, "rest": weights, "operations": 1, "nodes": 1, "bytes": size}

    text = describe_size(manifest(counts={"dense": counts(100, 0, 1000), "pruned": counts(100, 70, 1500)}))
    assert text is not None
    assert "50.0% larger" in text
    assert "0.0% of the parameters are removed, 70.0% are zero" in text


@pytest.mark.parametrize("estimate", [0.5, 0.8, 1.25, 2.0])
def test_below_one_the_file_is_called_slower(estimate: float) -> None:
    ratio = {"estimate": estimate, "low": 0.99 * estimate, "high": 1.01 * estimate}
    speedup = find_speedup({"ratios": {"1": {"dense ONNX / pruned ONNX": ratio}}, "threads": 1})
    assert speedup is not None
    assert ("slower" in str(speedup)) == (estimate < 1)
    assert ("faster" in str(speedup)) == (estimate > 1)
    assert f"{max(estimate, 1 / estimate):.2f}×" in str(speedup)
    assert format_ratio(Estimate(1.0, 0.9, 1.1)) == "1.00× [0.900, 1.10]"
