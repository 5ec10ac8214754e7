"""`sweep` takes what the main job takes for fewer bits, and looks at the artifact that comes of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from recprune_export.cli import main
from recprune_export.program.capture import capture
from recprune_export.search import measure_artifact

ROWS = 800


class Wide(nn.Module):
    """Two ids and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(50, 32), nn.Embedding(50, 32)
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """[B], [B] -> [B]."""
        return self.mlp(torch.cat([self.user(user), self.item(item)], 1)).squeeze(1)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    capture(Wide().eval(), (torch.arange(4), torch.arange(4))).save(folder / "model.pt2")
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 50, (2, ROWS))
    click = (rng.random(ROWS) < np.where((user + item) % 2, 0.8, 0.2)).astype(np.float32)
    np.savez(folder / "rows.npz", user=user, item=item, click=click)
    return folder / "model.pt2", folder / "rows.npz"


def swept(files: tuple[Path, Path], target: Path, *wishes: str) -> dict[str, Any]:
    """The one trial of a sparsity in a sweep; the other is that of the dense model in int8."""
    model, rows = files
    words = ["sweep", str(model), "--data", str(rows), "--label", "click", "--sparsities", "0.8", "--epochs", "1"]
    words += [
        "--byte-fractions",
        "none",
        "--latency-batch-sizes",
        "64",
        "--structured-fraction",
        "0",
        "-o",
        str(target),
        "--json",
        *wishes,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_artifact, "SECONDS", 0.05)
        done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    trial, int8 = json.loads(done.stdout)["trials"]
    assert int8["point"]["kind"] == "dense int8"
    assert int8["artifact"]["parameters"] >= 2 * 50 * 32 + 64 * 128  # nothing is removed
    assert trial == json.loads((target / "sweep.json").read_text())["trials"][0]
    return trial  # type: ignore[no-any-return]


def test_fewer_bits_are_looked_at_and_are_other_trials(files: tuple[Path, Path], tmp_path: Path) -> None:
    floats = swept(files, tmp_path / "sweep")["artifact"]
    halves = swept(files, tmp_path / "sweep", "--quantize", "fp16")["artifact"]
    tables = 2 * 50 * 32
    assert halves["parameters"] == floats["parameters"]
    assert halves["bytes"] < floats["bytes"] - tables


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        (["--structured-fraction", "2"], "[0, 1]"),
        (["--quantize", "int9"], "int8"),
        (["--byte-fractions", "0"], "(0, 1)"),
        (["--byte-fractions", "10"], "(0, 1)"),
    ],
)
def test_wrong_wishes_are_usage_errors(files: tuple[Path, Path], wishes: list[str], told: str) -> None:
    done = CliRunner().invoke(main, ["sweep", str(files[0]), "--data", str(files[1]), *wishes])
    assert done.exit_code == 2
    assert told in done.output
