"""Zeros in tiles together with fewer bits, and with inputs that all candidates share, through the main job."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from recprune_export.bundle.manifest import Manifest
from recprune_export.bundle.verify import read_manifest, verify
from recprune_export.compression import fewer_bits
from recprune_export.finetuning import task as tasks
from recprune_export.finetuning.task import answer
from recprune_export.jobs import compress
from recprune_export.onnx.session import make_session, run
from recprune_export.program.loading import load_program
from recprune_export.quantisation.plan import BY_ROW, STATIC
from recprune_export.quantisation.quantise import quantise
from recprune_export.settings import Settings
from tests.quantisation.times import favouring

SETTINGS = Settings(
    sparsity=0.9, embedding_sparsity=0.5, structured_share=0.0, pattern="tile", tile=32, epochs=1, batches=(64, 256)
)
IDS, ROWS = 60, 40


class Scorer(nn.Module):
    """A user, an item and numbers, wide layers, and one that is narrow enough to have no tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(IDS, 32), nn.Embedding(IDS, 32)
        self.mlp = nn.Sequential(
            nn.Linear(72, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 16),
            nn.ReLU(),
            nn.Linear(16, 1),
        )

    def forward(self, user: torch.Tensor, item: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """[B], [B], [B, 8] -> [B]."""
        return self.mlp(torch.cat([self.user(user), self.item(item), numbers], 1)).squeeze(1)  # type: ignore[no-any-return]


def bundle(target: Path, settings: Settings) -> Manifest:
    torch.manual_seed(0)
    ids = torch.arange(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "SAMPLED_STEPS", 4)
        patch.setattr(fewer_bits, "quantise", lambda *given: quantise(*given, stopwatch=favouring(STATIC, BY_ROW)))
        compress(Scorer().eval(), (ids, ids, torch.randn(4, 8)), target, settings=settings)
    return read_manifest(target)


def request(rows_of_user: int) -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, IDS, (2, ROWS))
    return {
        "user": ids[0][:rows_of_user],
        "item": ids[1],
        "numbers": rng.normal(size=(ROWS, 8)).astype(np.float32),
    }


def served_by_tiles(manifest: Manifest) -> set[str]:
    (report,) = [each for each in manifest.rewrites if each["name"] == "tile_layers"]
    assert report["kept"]
    return set(report["at"])


def note_of(manifest: Manifest) -> str:
    (note,) = [each for each in manifest.notes if each.startswith("Zeros in tiles")]
    return note


def difference(target: Path, of_file: Mapping[str, np.ndarray], of_program: Mapping[str, np.ndarray]) -> float:
    """The largest, as a fraction of how much the program's answers vary."""
    found = run(make_session(target / "model.onnx", 1), of_file)
    wanted = answer(load_program(target / "model.pt2").program, of_program)
    return max(float(np.abs(found[name] - wanted[name]).max() / wanted[name].std()) for name in wanted)


def test_tiles_and_fewer_bits(tmp_path: Path) -> None:
    manifest = bundle(tmp_path / "ctr", replace(SETTINGS, quantize="int8", max_quantize_drop=0.05))
    served = served_by_tiles(manifest)
    assert len(served) >= 2
    stated: Any = manifest.quantisation
    rounded = {choice["name"] for choice in stated["layers"] if choice["form"] != "fp32"}
    assert {choice["form"] for choice in stated["tables"]} == {BY_ROW}
    assert not rounded & served  # a product of tiles has no form in int8
    assert verify(tmp_path / "ctr").rows == 16
    assert difference(tmp_path / "ctr", request(ROWS), request(ROWS)) < 0.1
    assert manifest.parity["passed"]
    assert "run as dense" not in note_of(manifest)


def test_tiles_and_shared_inputs(tmp_path: Path) -> None:
    """The first layer is two: of the user, once for all candidates, and of the rest, which is in tiles still."""
    manifest = bundle(tmp_path / "ctr", replace(SETTINGS, shared_inputs=("user",)))
    served = served_by_tiles(manifest)
    assert {"mlp.0.weight", "mlp.2.weight"} <= {layer["weight"] for layer in manifest.plan["tiles"]}
    assert "mlp.2.weight" in served
    assert any(name.startswith("mlp.0.weight_part") for name in served)
    assert "run as dense" not in note_of(manifest)
    nodes = onnx.load(tmp_path / "ctr/model.onnx").graph.node
    assert sum(node.op_type == "Transpose" for node in nodes) == 1  # the row of the user is not turned round
    assert verify(tmp_path / "ctr").rows == 16
    shared, whole = request(1), dict(request(1))
    whole["user"] = np.repeat(whole["user"], ROWS)
    assert difference(tmp_path / "ctr", shared, whole) < 1e-4
