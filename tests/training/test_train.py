import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recprune_export.data import Ragged, SchemaOverrides
from recprune_export.errors import ModelFileError, UsageError
from recprune_export.recommenders import InputSpec, SASRec, build_recommender
from recprune_export.training import TrainingResult, load_checkpoint, train
from recprune_export.training._train import shift_histories
from recprune_export.training.checkpoint import FORMAT
from tests.full_disk import file_size_limit

CLICKED = SchemaOverrides(labels=("clicked",))


def quick(data: Path, output: Path, recommender: str = "neumf", seed: int = 0) -> TrainingResult:
    return train(data, recommender, output, CLICKED, {"dim": 8, "hidden": (16,)}, epochs=6, batch_size=128, seed=seed)


def test_a_recommender_learns_and_its_checkpoint_says_the_same(clicks_file: Path, tmp_path: Path) -> None:
    training = quick(clicks_file, tmp_path / "model.pt")
    assert training.checkpoint.metrics["auc"] > 0.6
    assert not any("The model is not measurably better" in note for note in training.notes)
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.metrics == training.checkpoint.metrics
    request = loaded.example_request()
    with torch.no_grad():
        expected = training.checkpoint.build()(request)["clicked"]
        torch.testing.assert_close(loaded.build()(request)["clicked"], expected)


def test_the_same_seed_gives_the_same_weights(clicks_file: Path, tmp_path: Path) -> None:
    one, two = (quick(clicks_file, tmp_path / f"{n}.pt").checkpoint.state for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = quick(clicks_file, tmp_path / "other.pt", seed=1).checkpoint.state
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_padding_stays_zero(clicks_file: Path, tmp_path: Path) -> None:
    state = quick(clicks_file, tmp_path / "model.pt", "deepfm").checkpoint.state
    (table,) = [values for name, values in state.items() if "tags" in name and values.shape[1] == 8]
    assert not table[0].any()
    assert table[1:].any(1).all()


def test_sasrec_learns_what_follows(sequences_file: Path, tmp_path: Path) -> None:
    config = {"dim": 16, "dropout": 0.1}
    training = train(sequences_file, "sasrec", tmp_path / "model.pt", config=config, epochs=24, batch_size=32)
    assert training.checkpoint.metrics["hr@10"] > 0.2  # 0.16 by frequency alone
    assert not any("The model is not measurably better" in note for note in training.notes)


def test_sasrec_learns_the_same_weights_from_histories_in_files(sequences_file: Path, tmp_path: Path) -> None:
    for stream in (True, False):
        recipe = {"epochs": 2, "batch_size": 32, "stream": stream}
        train(sequences_file, "sasrec", tmp_path / f"{stream}.pt", config={"dim": 8}, **recipe)
    one, other = (load_checkpoint(tmp_path / f"{stream}.pt") for stream in (True, False))
    assert one.metrics == other.metrics
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_sasrec_begins_at_chance() -> None:
    """With scores of a standard deviation of 1 it began above that, and stayed on a plateau on small logs."""
    torch.manual_seed(0)
    items, generator = 5000, torch.Generator().manual_seed(0)
    model = build_recommender("sasrec", InputSpec(items=items, max_length=20, labels=("next_item",)), {})
    assert isinstance(model, SASRec)
    history, following = (torch.randint(1, items, (16, 20), generator=generator) for _ in range(2))
    assert abs(model.eval().training_loss(history, following).item() - math.log(items)) < 0.02


def test_a_log_that_teaches_nothing_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = {
        "user": np.repeat(np.arange(300), 6),
        "item": (40 * rng.random(1800) ** 2).astype(int),
        "position": np.tile(np.arange(6), 300),
    }
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    training = train(tmp_path / "log.parquet", "sasrec", tmp_path / "model.pt", config={"dim": 8}, epochs=2)
    (note,) = [note for note in training.notes if note.startswith("The model is not measurably better")]
    assert "the validation ndcg@10" in note
    assert "the most frequent items for everyone" in note


def test_labels_that_follow_from_nothing_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "user": rng.integers(50, size=2000),
        "item": rng.integers(30, size=2000),
        "clicked": rng.integers(2, size=2000),
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    training = quick(tmp_path / "rows.parquet", tmp_path / "model.pt")
    assert any("the mean of the label for every row" in note for note in training.notes)


@pytest.mark.parametrize(
    ("recommender", "wishes", "said"),
    [
        ("dlrm", SchemaOverrides(), "--label"),
        ("dlrm", SchemaOverrides(labels=("clicked", "split")), "mmoe supports several"),
        ("dlrn", CLICKED, "'dlrn' is not a recommender"),
    ],
)
def test_what_cannot_be_learned_is_said_first(
    clicks_file: Path, tmp_path: Path, recommender: str, wishes: SchemaOverrides, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        train(clicks_file, recommender, tmp_path / "model.pt", wishes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recommender", "overrides", "option"),
    [
        ("sasrec", SchemaOverrides(labels=("clicked",)), "--label"),
        ("sasrec", SchemaOverrides(categorical=("user",)), "--categorical"),
        ("dlrm", SchemaOverrides(labels=("clicked",), sequence="user,item,order"), "--sequence"),
        ("dlrm", SchemaOverrides(labels=("clicked",), max_length=5), "--max-length"),
    ],
)
def test_an_option_for_the_other_kind_of_rows_is_refused(
    clicks_file: Path, tmp_path: Path, recommender: str, overrides: SchemaOverrides, option: str
) -> None:
    with pytest.raises(UsageError, match=rf"^{option} has no effect: {recommender} reads"):
        train(clicks_file, recommender, tmp_path / "model.pt", overrides)


def test_an_output_that_cannot_be_written_is_said_first(clicks_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "model.pt"):
        with pytest.raises(UsageError, match=r"directory|cannot be written"):
            train(clicks_file, "dlrm", output, CLICKED)


@pytest.mark.parametrize(
    "content", [{"a": torch.ones(1)}, {"format": FORMAT, "version": 99}, {"format": FORMAT, "version": 1}]
)
def test_another_dict_is_no_checkpoint(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelFileError):
        load_checkpoint(tmp_path / "model.pt")


def test_every_position_predicts_the_item_after_it() -> None:
    history, following = shift_histories(Ragged(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 2, 6])), length=3)
    assert history.tolist() == [[0, 0, 1], [3, 4, 5]]
    assert following.tolist() == [[0, 0, 2], [4, 5, 6]]


def test_a_disk_that_fills_up_is_said_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    trained = load_checkpoint(checkpoint)
    with pytest.raises(UsageError, match=r"model\.pt cannot be written: File too large\."), file_size_limit(20_000):
        trained.save(tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
