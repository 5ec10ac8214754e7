"""`refresh` on generated rows: the same data hold, drifted ones do not and are compressed again; what is missing is said."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import DATA_PROFILE, MANIFEST, pack, read_manifest, verify
from recprune_export.cli import main
from recprune_export.data import SchemaOverrides
from recprune_export.errors import BundleError, UsageError
from recprune_export.refresh import DriftReport, make_drift_report, recompress
from recprune_export.refresh.dense import DenseModel, MissingModel, find_dense
from recprune_export.refresh.open_bundle import open_bundle
from recprune_export.refresh.paired_quality import compare_on_rows
from recprune_export.settings import Settings
from recprune_export.training import train

QUICK = Settings(sparsity=0.6, epochs=1, latency_batch_sizes=(1,))
MEASURES = ["metric", "distance from dense", "drift", "ranking"]


@pytest.fixture(scope="module")
def checkpoint(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "model.pt"
    config = {"dim": 8, "hidden": (32,)}
    train(clicks_file, "deepfm", path, SchemaOverrides(labels=("clicked",)), config, epochs=3, batch_size=128)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundles") / "ctr"
    compress(checkpoint, target=target, data=clicks_file, settings=QUICK)
    return target


@pytest.fixture(scope="module")
def permuted(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows, but other items are the frequent ones."""
    path, rows = tmp_path_factory.mktemp("permuted") / "new.parquet", pl.read_parquet(clicks_file)
    items = rows["item"].unique().sort()
    other = items.sample(fraction=1.0, shuffle=True, seed=1)
    rows.with_columns(pl.col("item").replace_strict(items, other)).write_parquet(path)
    return path


def edited(
    bundle: Path, target: Path, settings: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> Path:
    """Return a copy of a bundle with other settings in its manifest, and without some files."""
    shutil.copytree(bundle, target)
    manifest = read_manifest(bundle)
    files = {name: entry for name, entry in manifest.files.items() if name not in without}
    for name in without:
        (target / name).unlink()
    manifest = manifest.model_copy(update={"settings": {**manifest.settings, **(settings or {})}}).with_files(files)
    (target / MANIFEST).write_text(manifest.to_json())
    return target


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def verdicts(found: DriftReport) -> dict[str, bool | None]:
    return {finding.measure: finding.holds for finding in found.findings}


def reason(found: DriftReport, measure: str) -> str:
    return next(finding.reason for finding in found.findings if finding.measure == measure)


def test_unchanged_data_hold_and_nothing_is_written(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    done = invoke("refresh", bundle, "--data", clicks_file, "-o", tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert "is valid for" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_packed_bundle_is_examined_and_called_by_its_name(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path / "ctr.tar.zst")
    done = invoke("refresh", packed, "--data", clicks_file, "--check-only")
    assert done.exit_code == 0, done.output
    assert f"The plan of {packed} is valid for" in done.stdout.replace("\n", "")


def test_the_same_rows_give_the_same_figures(bundle: Path, clicks_file: Path) -> None:
    found = make_drift_report(bundle, clicks_file)
    assert verdicts(found) == dict.fromkeys(MEASURES, True)
    recorded = read_manifest(bundle).metrics
    for model in ("dense", "pruned"):
        assert found.quality.now[model] == pytest.approx(recorded[model], abs=1e-6)
    assert {drift.name for drift in found.drifts} >= {"user", "item", "price", "label clicked"}
    assert all(s.loss == pytest.approx(s.optimal_loss, rel=1e-3, abs=1e-4 * s.total) for s in found.regrets)


def test_rows_without_a_split_are_all_measured(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(clicks_file).drop("split")
    rows.write_csv(tmp_path / "new.csv")
    found = make_drift_report(bundle, tmp_path / "new.csv")
    assert found.quality.rows == len(rows)
    assert found.holds, [f.reason for f in found.findings]


def test_permuted_ids_do_not_hold(bundle: Path, permuted: Path, tmp_path: Path) -> None:
    done = invoke("refresh", bundle, "--data", permuted, "--check-only", "-o", tmp_path / "new")
    assert done.exit_code == 1
    assert "'item'" in done.stdout
    assert "is not valid for" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_few_rows_cannot_tell_unless_the_user_decides(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(clicks_file).filter(pl.col("split") == "test")
    rows[: len(rows) // 2].drop("split").write_parquet(tmp_path / "few.parquet")
    command = (
        "refresh",
        bundle,
        "--data",
        tmp_path / "few.parquet",
        "-o",
        tmp_path / "new",
        "--max-fall",
        "0",
    )
    done = invoke(*command)
    assert done.exit_code == 5, done.output
    assert "rows give an interval of +-" in " ".join(done.stdout.split())
    assert "inconclusive" in done.stderr, done.stdout
    assert not (tmp_path / "new").exists()
    assert invoke(*command, "--check-only", "--undecided", "pass").exit_code == 0
    assert invoke(*command, "--check-only", "--undecided", "fail").exit_code == 1


def test_two_bundles_are_compared_on_the_same_rows(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    for name, change in compare_on_rows(bundle, bundle, clicks_file).items():
        recorded = read_manifest(bundle).changes[name]
        assert (change.change, change.low, change.high) == (0.0, 0.0, 0.0)
        assert change.after == pytest.approx(recorded["after"], abs=1e-6)
        assert change.rows == recorded["rows"]
    assert invoke("check", bundle, "--against", clicks_file, "--data", clicks_file).exit_code == 2


def test_flipped_labels_do_not_hold(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(clicks_file).drop("split")
    flip = pl.Series(np.random.default_rng(0).random(len(rows)) < 0.6)
    clicked = pl.when(flip).then(1 - pl.col("clicked")).otherwise(pl.col("clicked"))
    rows.with_columns(clicked.alias("clicked")).write_parquet(tmp_path / "new.parquet")
    found = make_drift_report(bundle, tmp_path / "new.parquet")
    assert verdicts(found)["metric"] is False
    assert "train it again" in reason(found, "metric")
    assert verdicts(found)["ranking"] is True


@pytest.mark.slow
def test_what_does_not_hold_is_compressed_again_and_then_holds(bundle: Path, permuted: Path, tmp_path: Path) -> None:
    done = invoke("refresh", bundle, "--data", permuted, "-o", tmp_path / "new", "--verbose")
    assert done.exit_code == 0, done.output
    assert "The pruned model equals the masked model" in done.stdout
    verify(tmp_path / "new")
    then, now = read_manifest(bundle).settings, read_manifest(tmp_path / "new").settings
    # The metrics that were chosen by the kind of label stand in the manifest by their names.
    assert Settings.from_dict(now) == Settings.from_dict(then) == QUICK.with_options(metrics=("auc", "logloss"))
    assert now["data"] == permuted.name
    assert now["model_file"] == then["model_file"]
    assert make_drift_report(tmp_path / "new", permuted).holds


def test_a_dense_model_that_is_gone_is_asked_for(
    bundle: Path, permuted: Path, checkpoint: Path, tmp_path: Path
) -> None:
    gone = {"path": str(tmp_path / "gone.pt"), "sha256": "0" * 64}
    moved = edited(bundle, tmp_path / "moved", {"model_file": gone})
    done = invoke("refresh", moved, "--data", permuted, "-o", tmp_path / "new")
    assert done.exit_code == 2
    assert "gone.pt no longer exists: give it with --model" in done.stderr
    assert not (tmp_path / "new").exists()
    given = make_drift_report(moved, permuted, model=checkpoint)
    assert verdicts(given)["ranking"] is not None
    assert "is not the file" in given.notes[0]


def test_the_dense_model_is_opened_as_the_settings_of_the_bundle_say(tmp_path: Path) -> None:
    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.EmbeddingBag(50, 16, mode="sum"), torch.nn.Linear(16, 1)

        def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            """Ids [T] and offsets [B] to scores [B]."""
            return self.head(self.table(ids, offsets)).squeeze(1)

    tensors = (torch.randint(0, 50, (13,)), torch.tensor([0, 3, 4, 9, 11]))
    torch.export.save(torch.export.export(Bag().eval(), tensors), tmp_path / "bag.pt2")
    compress(tmp_path / "bag.pt2", target=tmp_path / "b", settings=QUICK.with_options(epochs=0), padded=6)
    dense = find_dense(open_bundle(tmp_path / "b"), tmp_path / "bag.pt2", {})
    assert isinstance(dense, DenseModel)
    (spec,) = dense.loaded.program.signature.inputs
    assert spec.jagged is not None
    assert (spec.jagged.padded, spec.shape) == (True, ("batch", 6))


def test_a_dense_model_that_has_changed_is_not_taken_for_the_same(
    bundle: Path, clicks_file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    file = {"path": str(checkpoint), "sha256": "0" * 64}
    found = make_drift_report(edited(bundle, tmp_path / "other", {"model_file": file}), clicks_file)
    assert verdicts(found)["ranking"] is None
    assert "has changed" in reason(found, "ranking")
    assert found.holds


def test_a_bundle_without_a_profile_says_so_and_is_judged_by_the_rest(
    bundle: Path, permuted: Path, tmp_path: Path
) -> None:
    found = make_drift_report(edited(bundle, tmp_path / "older", without=[DATA_PROFILE]), permuted)
    assert verdicts(found)["drift"] is None
    assert "no profile" in reason(found, "drift")
    assert "not measured" not in reason(found, "metric")


def test_a_bundle_that_was_changed_is_not_measured(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "damaged")
    (tmp_path / "damaged" / DATA_PROFILE).write_text("{}")
    with pytest.raises(BundleError, match="changed"):
        make_drift_report(tmp_path / "damaged", clicks_file)


def test_json_has_all_of_it(bundle: Path, permuted: Path) -> None:
    done = invoke("refresh", bundle, "--data", permuted, "--check-only", "--json")
    values = json.loads(done.stdout)
    assert done.exit_code == 1
    assert values["verdict"] == "fail"
    assert {measure["verdict"] for measure in values["measures"]} <= {"pass", "fail", "undecided"}
    assert [measure["measure"] for measure in values["measures"]] == MEASURES
    assert next(d for d in values["drift"] if d["name"] == "item")["verdict"] == "fail"
    assert "output" not in values


class Product(nn.Module):
    """Not one of ours: a dot product and a bias, as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.bias = nn.Embedding(60, 16), nn.Embedding(40, 16), nn.Embedding(40, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """[B], [B] -> [B]."""
        return (self.user(user) * self.item(item)).sum(1) + self.bias(item).squeeze(1)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle of a module in memory, made without its dense model for requests that share the user, and its rows."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    module = Product().eval()
    rng = np.random.default_rng(0)
    columns = {"user": rng.integers(0, 60, 3000), "item": rng.integers(0, 40, 3000)}
    with torch.no_grad():
        logits = module(*(torch.from_numpy(values) for values in columns.values())).numpy()
    columns["click"] = (rng.random(3000) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    np.savez(folder / "rows.npz", **columns)  # type: ignore[arg-type]
    example = (torch.arange(4), torch.arange(4))
    compress(
        module, example, folder / "product", data=folder / "rows.npz", labels="click", settings=QUICK,
        shared_inputs=("user",), keep_dense=False,
    )  # fmt: skip
    return folder / "product", folder / "rows.npz"


def test_a_model_that_is_not_ours(foreign: tuple[Path, Path]) -> None:
    bundle, rows = foreign
    found = make_drift_report(bundle, rows)
    assert verdicts(found) == {"metric": None, "distance from dense": None, "drift": True, "ranking": None}
    assert "rows give an interval of +-" in reason(found, "metric")
    assert found.quality.rows == 3000
    assert isinstance(found.dense, MissingModel)
    assert "does not record the path of its dense model 'product'" in reason(found, "ranking")
    with pytest.raises(UsageError, match="--model"):
        recompress(found, bundle.with_name("new"))


def test_labels_are_those_that_were_recorded_unless_the_user_says(foreign: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, rows = foreign
    older = edited(bundle, tmp_path / "older", {"labels": []})
    with pytest.raises(UsageError, match="--label"):
        make_drift_report(older, rows)
    assert make_drift_report(older, rows, labels=["click"]).quality.now == make_drift_report(bundle, rows).quality.now


@pytest.mark.slow
def test_a_sequence_model(sequences_file: Path, tmp_path: Path) -> None:
    config = {"dim": 16, "layers": 1, "heads": 2, "width": 16}
    train(sequences_file, "sasrec", tmp_path / "model.pt", SchemaOverrides(), config, epochs=2, batch_size=64)
    compress(tmp_path / "model.pt", target=tmp_path / "next", data=sequences_file, settings=QUICK)
    found = make_drift_report(tmp_path / "next", sequences_file)
    assert found.quality.change.metric == "ndcg@10"
    assert False not in verdicts(found).values()  # the loss of so few users' rankings cannot be told
    log = pl.read_csv(sequences_file)
    items = log["item"].unique().sort()
    other = items.sample(fraction=1.0, shuffle=True, seed=1)
    log.with_columns(pl.col("item").replace_strict(items, other)).write_csv(tmp_path / "new.csv")
    assert verdicts(make_drift_report(tmp_path / "next", tmp_path / "new.csv"))["drift"] is False


@pytest.mark.slow
def test_what_goes_before_the_channels_goes_before_they_are_judged(
    checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    """The groups of a plan are those of a program without its fields."""
    compress(checkpoint, target=tmp_path / "fewer", data=clicks_file, settings=QUICK, prune_fields=1)
    found = make_drift_report(tmp_path / "fewer", clicks_file)
    assert verdicts(found)["ranking"] is True, reason(found, "ranking")
    assert found.regrets
