"""Which layers get tiles, and the way from there to the file."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from recprune_export.cli import main
from recprune_export.compression.compress import drawn_requests
from recprune_export.compression.planning import calibration
from recprune_export.compression.tiling import TileChoice, choose_tiles
from recprune_export.finetuning import task as tasks
from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.task import answer
from recprune_export.finetuning.zeros import ZeroTarget, parameter_counts
from recprune_export.onnx.counts import count
from recprune_export.onnx.export import REWRITES, OnnxFile, Serving, export_onnx
from recprune_export.onnx.passes.tile_layers import tile_layers
from recprune_export.onnx.session import make_session, run
from recprune_export.program.capture import capture
from recprune_export.program.drawing import draw_request
from recprune_export.program.program import Program
from recprune_export.recommenders.catalogue import build
from recprune_export.recommenders.inputs import InputSpec
from recprune_export.settings import Settings

SETTINGS = Settings(pattern="tile", tile=32, batches=(256,), epochs=0)
FIELDS = InputSpec(categorical={f"f{i}": 40 for i in range(4)}, n_numeric=3, labels=("click",))
WIDE: Mapping[str, Mapping[str, object]] = {
    "dlrm": {"dim": 16, "hidden": (192, 128), "bottom": (96, 64)},
    "deepfm": {"dim": 16, "hidden": (192, 128)},
}


class Mlp(nn.Module):
    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 100)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def program(name: str, width: int = 160) -> Program:
    torch.manual_seed(0)
    if name == "mlp":
        return capture(Mlp(width).eval(), (torch.randn(3, 64),))
    return capture(build(name, FIELDS, WIDE[name]).eval(), (FIELDS.example_request(),))


def with_tiles(of: Program, share: float, settings: Settings = SETTINGS) -> TileChoice:
    """Set zeros in place, so that `share` of the rest stays."""
    task, tables = drawn_requests(of, settings), of.analysis.tables
    counts = parameter_counts(of, tables)
    target = ZeroTarget(counts[0], int(share * counts[1]))
    requests = [request for request, _ in calibration(task, 0)]
    choice = choose_tiles(of, tables, target, settings, requests, task.objective.probe)
    finetune(of, of, task, tables, target, Schedule(0, 1e-3, False, 0), tiling=choice.tiling)
    return choice.as_in(of)


def largest_error(of: Program, file: OnnxFile, batch: int) -> float:
    request = draw_request(of.signature, batch, seed=batch)
    wanted, found = answer(of, request), run(make_session(file.path, 1), request)
    return max(float(np.abs(wanted[name] - found[name]).max() / np.abs(wanted[name]).max()) for name in wanted)


@pytest.mark.parametrize("name", ["mlp", "dlrm", "deepfm"])
def test_the_file_answers_as_the_program_does(name: str, tmp_path: Path) -> None:
    of = program(name)
    choice = with_tiles(of, 0.15)
    assert len(choice.layers) >= 2
    file = export_onnx(of, tmp_path / "tiled.onnx", rewrites=(tile_layers,), serving=Serving((1024,)))
    plain = export_onnx(of, tmp_path / "plain.onnx", rewrites=())
    (report,) = file.rewrites
    assert report.kept
    assert set(report.at) <= {layer.weight for layer in choice.layers}
    assert all(largest_error(of, file, batch) <= 1e-5 for batch in (1, 5, 64))
    tiled, dense = count(file.path), count(plain.path)
    stored = sum(layer.outputs * layer.inputs for layer in choice.layers if layer.weight in report.at)
    kept = sum(layer.outputs * layer.kept for layer in choice.layers if layer.weight in report.at)
    assert 0 <= tiled.rest.nonzero - dense.rest.nonzero <= len(report.at)  # rows of ones
    assert dense.rest.parameters - tiled.rest.parameters >= 0.9 * (stored - kept)
    assert tiled.operations < dense.operations
    assert tiled.bytes < dense.bytes


def test_the_order_of_units_changes_nothing_before_zeros_are_set(tmp_path: Path) -> None:
    """Tiles that hold every input: only the order of units is left of them."""
    from recprune_export.onnx.passes import tile_layers as passes
    from recprune_export.onnx.tiles import Tiles

    of = program("mlp")

    def every_input(matrix: np.ndarray) -> Tiles:
        order = np.random.default_rng(0).permutation(matrix.shape[1])
        return Tiles(order.reshape(4, -1), np.tile(np.arange(len(matrix)), (4, 1)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passes, "find_tiles", every_input)
        patched.setattr("recprune_export.onnx.rewriting.EQUAL", 10.0)
        file = export_onnx(of, tmp_path / "model.onnx", rewrites=(tile_layers,), serving=Serving((64,)))
    assert file.rewrites[0].places == 3
    assert all(largest_error(of, file, batch) <= 1e-6 for batch in (1, 5, 64))


def test_the_same_seed_gives_the_same_zeros() -> None:
    one, two = program("dlrm"), program("dlrm")
    assert with_tiles(one, 0.2).layers == with_tiles(two, 0.2).layers
    pairs = zip(one.parameters().values(), two.parameters().values(), strict=True)
    assert all(torch.equal(p != 0, q != 0) for p, q in pairs)


@pytest.mark.parametrize(
    ("settings", "share", "reason"),
    [
        ({"pattern": "element"}, 0.2, ""),
        ({"tile": 128}, 0.2, "no linear layer has 256 units"),
        ({}, 0.9, "--structured-share"),
        ({"pattern": "auto", "batches": (1,)}, 0.3, "no layer is faster"),
    ],
)
def test_no_tiles_where_they_do_not_fit(settings: Mapping[str, object], share: float, reason: str) -> None:
    choice = with_tiles(program("mlp"), share, replace(SETTINGS, **settings))  # type: ignore[arg-type]
    assert (choice.layers, choice.tiling) == ((), ())
    assert reason in choice.reason


def test_auto_takes_the_layers_that_are_faster() -> None:
    choice = with_tiles(program("mlp"), 0.1, replace(SETTINGS, pattern="auto", tile="auto", batches=(256, 1024)))
    assert choice.layers
    assert all(layer.tile in (32, 64) for layer in choice.layers)


def test_the_main_job_serves_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SAMPLED_STEPS", 4)
    program("mlp", width=256).save(tmp_path / "model.pt2")
    arguments = [
        "--sparsity",
        ".9",
        "--structured-share",
        "0",
        "--pattern",
        "tile",
        "--tile",
        "32",
        "--batches",
        "64,256",
    ]
    done = CliRunner().invoke(
        main, [str(tmp_path / "model.pt2"), *arguments, "--epochs", "1", "--quiet", "-o", str(tmp_path / "out")]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Zeros in tiles: " in done.output.replace("\n", " ")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["settings"]["pattern"] == "tile"
    assert len(manifest["plan"]["tiles"]) == 3
    (report,) = [each for each in manifest["rewrites"] if each["name"] == "tile_layers"]
    assert report["kept"]
    assert report["at"]
    products = [n for n in onnx.load(tmp_path / "out/model.onnx").graph.node if n.op_type == "MatMul"]
    assert len(products) == len(report["at"])
    assert manifest["counts"]["pruned"]["rest"]["nonzero"] <= 0.1 * manifest["counts"]["dense"]["rest"]["parameters"]
    verified = CliRunner().invoke(main, ["verify", str(tmp_path / "out")])
    assert verified.exit_code == 0, verified.output


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--tile", "16"], "32 and 256"), (["--tile", "wide"], "whole number"), (["--pattern", "x"], "element")]
)  # fmt: skip
def test_wrong_options_are_usage_errors(arguments: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    done = CliRunner().invoke(main, [str(tmp_path / "model.pt"), *arguments])
    assert done.exit_code == 2
    assert told in done.output
    assert tile_layers in REWRITES
