"""`--top-k` of the main job: what it refuses before the work, and ids that rank as the report says."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.bundle import read_manifest
from recprune_export.data import SchemaOverrides, SequenceEncoder, load_sequences
from recprune_export.derived.top_k import TOP_K
from recprune_export.onnx import make_session, run
from recprune_export.training import train
from tests.jobs import assert_refused, invoke

JOB = ("--epochs", "0", "--sparsity", "0.3", "--latency-batch-sizes", "8", "--quick")


@pytest.fixture(scope="module")
def log(sequences_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which no user takes an item twice: the metric counts such a target, which the file leaves out."""
    path = tmp_path_factory.mktemp("log") / "log.csv"
    pl.read_csv(sequences_file).unique(["user", "item"], keep="first", maintain_order=True).write_csv(path)
    return path


@pytest.fixture(scope="module")
def sasrec(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sasrec") / "sasrec.pt"
    overrides = SchemaOverrides(sequence="user,item,position", max_length=64)
    train(log, "sasrec", path, overrides, {"dim": 16, "layers": 1}, epochs=1)
    return path


@pytest.mark.slow
def test_the_hit_rate_of_the_ids_is_that_of_the_manifest(sasrec: Path, log: Path, tmp_path: Path) -> None:
    options = ("--top-k", 10, "--exclude-seen", "--data", log)
    done = invoke(sasrec, *JOB, *options, "-o", tmp_path / "bundle")
    assert done.exit_code == 0, (done.stderr, done.exception)
    encoder = SequenceEncoder.from_dict(json.loads((tmp_path / "bundle" / "encoding.json").read_text()))
    test = load_sequences(log, encoder.schema, encoder).test
    assert test.excluded_items is not None
    assert test.excluded_items.lengths.max() <= 64  # so that the file knows all items of each user
    answer = run(make_session(tmp_path / "bundle" / TOP_K, 1), test.inputs)["top_item_ids"]
    targets = np.array(["", *encoder.items.to_list()])[test.labels["next_item"]]
    hits = ((answer.astype(str) == targets[:, None]) & (targets != "")[:, None]).any(axis=1)
    assert hits.mean() == pytest.approx(read_manifest(tmp_path / "bundle").metrics["pruned"]["hr@10"], abs=1e-9)
    assert hits.any()


@pytest.mark.slow
def test_the_callers_ids_come_out(sasrec: Path, tmp_path: Path) -> None:
    items = 1 + len(SequenceEncoder.from_dict(read_encoder(sasrec)).items.to_list())
    pl.DataFrame({"column": range(items), "id": [f"sku-{n}" for n in range(items)]}).write_csv(tmp_path / "ids.csv")
    done = invoke(sasrec, *JOB, "--top-k", 3, "--item-ids", tmp_path / "ids.csv", "-o", tmp_path / "bundle")
    assert done.exit_code == 0, (done.stderr, done.exception)
    answer = np.load(tmp_path / "bundle" / "samples" / "model.top_k-outputs.npz")["top_item_ids"]
    assert answer.shape[1] == 3
    assert all(text.startswith("sku-") and text != "sku-0" for text in answer.reshape(-1))  # column 0 is the padding


def read_encoder(checkpoint: Path) -> dict[str, object]:
    from recprune_export.training import load_checkpoint

    return load_checkpoint(checkpoint).encoder.to_dict()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--top-k", "100000"), 2, "greater than the number of items"),
        (("--top-k", "0"), 2, "--top-k must be 1 or more, got 0"),
        (("--exclude-seen",), 2, "--exclude-seen is used only with --top-k"),
        (("--item-ids", __file__), 2, "--item-ids is used only with --top-k"),
        (("--top-k", "3", "--item-ids", "absent.csv"), 3, "absent.csv does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(
    sasrec: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    assert_refused(invoke(sasrec, *JOB, *options, "-o", tmp_path / "bundle"), code, words)
    assert not (tmp_path / "bundle").exists()


def test_a_model_of_rows_has_no_items_to_rank(checkpoint: Path, tmp_path: Path) -> None:
    done = invoke(checkpoint, *JOB, "--top-k", 3, "-o", tmp_path / "bundle")
    assert_refused(done, 2, "--top-k has nothing to rank")


def test_the_candidates_of_a_request_are_ranked(checkpoint: Path, tmp_path: Path) -> None:
    done = invoke(checkpoint, *JOB, "--top-k", 3, "--shared-inputs", "user", "-o", tmp_path / "bundle")
    assert done.exit_code == 0, (done.stderr, done.exception)
    samples = tmp_path / "bundle" / "samples"
    request = dict(np.load(samples / "model.top_k-inputs.npz"))
    (scores,) = run(make_session(tmp_path / "bundle" / "model.onnx", 1), request).values()
    best = np.load(samples / "model.top_k-outputs.npz")
    assert best["top_positions"].tolist() == [np.argsort(-scores, kind="stable")[:3].tolist()]
