"""The whole way on real rows, where they are there: slow, and held to the figures that the README promises."""

from pathlib import Path

import pytest

from recprune_export.api import compress
from recprune_export.data import SchemaOverrides
from recprune_export.settings import Settings
from recprune_export.training import train

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SETTINGS = Settings(latency_batch_sizes=(1, 256))


@pytest.mark.slow
@pytest.mark.parametrize("recommender", ["dlrm", "deepfm"])
def test_clicks_keep_their_quality_at_seventy_percent(recommender: str, tmp_path: Path) -> None:
    data = DATA / "anime.parquet"
    if not data.exists():
        pytest.skip(f"{data.name} is not on this machine")
    training = train(data, recommender, tmp_path / "model.pt", SchemaOverrides(labels=("label",)), batch_size=2048)
    assert any("'rating' alone predicts 'label'" in note for note in training.notes)
    assert training.checkpoint.metrics["auc"] > 0.825
    result = compress(tmp_path / "model.pt", target=tmp_path / "out", data=data, settings=SETTINGS)
    assert result.metrics["pruned"]["auc"] > result.metrics["dense"]["auc"] - 0.003
    assert min(result.reduction.tables, result.reduction.rest) >= 0.7


@pytest.mark.slow
def test_two_tasks_keep_their_quality(tmp_path: Path) -> None:
    data = DATA / "census.parquet"
    if not data.exists():
        pytest.skip(f"{data.name} is not on this machine")
    train(
        data,
        "mmoe",
        tmp_path / "model.pt",
        SchemaOverrides(labels=("income", "never_married")),
        batch_size=2048,
        epochs=4,
    )
    result = compress(tmp_path / "model.pt", target=tmp_path / "out", data=data, settings=SETTINGS)
    for label in ("income", "never_married"):
        assert result.metrics["pruned"][f"{label}/auc"] > result.metrics["dense"][f"{label}/auc"] - 0.003
    assert min(result.reduction.tables, result.reduction.rest) >= 0.7
