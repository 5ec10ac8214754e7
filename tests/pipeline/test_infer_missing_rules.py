"""Inferred rules are found again wherever the dense model of a bundle is opened."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.api import compress
from recprune_export.evidence import Verdict
from recprune_export.reapply import reapply
from recprune_export.refresh import make_drift_report
from tests.jobs import QUICK


class Angles(nn.Module):
    """A hidden layer behind an operator of PyTorch without a written rule."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.score = nn.Embedding(200, 16), nn.Linear(16, 32), nn.Linear(32, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.score(torch.rad2deg(torch.relu(self.hidden(self.table(ids))))).squeeze(1)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, models of two seeds, and a bundle of the first one."""
    folder = tmp_path_factory.mktemp("angles")
    generator = np.random.default_rng(0)
    np.savez(
        folder / "rows.npz", ids=generator.integers(0, 200, 600), click=generator.integers(0, 2, 600).astype(np.float32)
    )
    for seed in (0, 1):
        torch.manual_seed(seed)
        dim = torch.export.Dim("batch", min=2)
        exported = torch.export.export(Angles().eval(), (torch.arange(4),), dynamic_shapes=({0: dim},))
        torch.export.save(exported, folder / f"seed{seed}.pt2")
    settings = QUICK.with_options(sparsity=0.5, infer_rules=True)
    compress(
        folder / "seed0.pt2", target=folder / "bundle", data=folder / "rows.npz", labels="click", settings=settings
    )
    return folder


def test_a_plan_by_inferred_rules_is_reapplied(folder: Path, tmp_path: Path) -> None:
    applied = reapply(
        folder / "bundle", folder / "seed1.pt2", tmp_path / "new", data=folder / "rows.npz", labels=("click",)
    )
    plan = applied.result.manifest.plan
    assert [rule["operator"] for rule in plan["inferred_rules"]] == ["aten.rad2deg"]
    assert "hidden.weight:0" in {group["group"] for group in plan["groups"]}


def test_a_plan_by_inferred_rules_is_refreshed(folder: Path) -> None:
    report = make_drift_report(folder / "bundle", folder / "rows.npz", labels=("click",))
    (ranking,) = (finding for finding in report.findings if finding.measure == "ranking")
    assert ranking.verdict is not Verdict.SKIPPED, ranking.reason
    assert "hidden.weight:0" in {regret.group for regret in report.regrets}
