"""The main job on models, rows and options of many kinds."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from recprune_export.api import compress, load_model
from recprune_export.bundle import verify
from recprune_export.data import SchemaOverrides
from recprune_export.errors import UsageError
from recprune_export.onnx import make_session, run
from recprune_export.recommenders import build_recommender
from recprune_export.training import train
from tests.bundle.archive.test_manifest_signature import key_pair
from tests.jobs import QUICK, QUICK_OPTIONS, assert_refused, invoke
from tests.recommenders.test_recommenders import CLICKS, SMALL


def test_a_bundle_of_a_module_states_license_and_signature_and_leaves_triton_out(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    module = torch.nn.Sequential(
        torch.nn.Embedding(100, 32), torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    )
    compress(
        module, torch.arange(4), tmp_path / "ctr", sign=private,
        sparsity=0.5, epochs=0, latency_batch_sizes=(1,), license="mit", triton=False,
    )  # fmt: skip
    assert verify(tmp_path / "ctr", public).signature == "valid"
    manifest = json.loads((tmp_path / "ctr/manifest.json").read_text())
    assert (manifest["license"], manifest["encoding"]) == ("MIT", None)
    assert (manifest["provenance"]["model"], manifest["provenance"]["data"]) == (None, None)
    assert not [name for name in manifest["files"] if name.startswith("triton/")]
    assert "triton" not in (tmp_path / "ctr/README.md").read_text()


def test_a_plan_can_be_looked_at_and_given_back(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    shown = invoke(checkpoint, "--plan-only", "--data", clicks_file, "--score", "magnitude-l2")
    plan = json.loads(shown.stdout)
    for group in plan["groups"]:
        group["keep"] = group["keep"][:3]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    made = invoke(checkpoint, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    kept = [g["kept"] for g in json.loads((tmp_path / "out/manifest.json").read_text())["plan"]["groups"]]
    assert set(kept) == {3}


@pytest.mark.slow
def test_whole_fields_go_and_are_named(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    options = ["--prune-fields", 2, "--data", clicks_file, "--verbose", *QUICK_OPTIONS]
    made = invoke(checkpoint, *options, "-o", tmp_path / "out")
    assert made.exit_code == 0, made.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    removed, importance = manifest["plan"]["fields"]["removed"], manifest["plan"]["fields"]["importance"]
    assert len(removed) == 2
    assert max(importance[name] for name in removed) <= min(importance[name] for name in set(importance) - set(removed))
    assert set(removed) < {i["name"] for i in manifest["signature"]["inputs"]}
    readme = (tmp_path / "out/README.md").read_text()
    assert all(name in made.stdout.split("Removed fields")[1] for name in removed)
    assert "Ignored, but still required: " + ", ".join(f"`{name}`" for name in removed) in readme
    request, session = dict(np.load(tmp_path / "out/samples/inputs.npz")), make_session(tmp_path / "out/model.onnx", 1)
    other = {name: np.roll(value, 1, 0) if name in removed else value for name, value in request.items()}
    assert any((other[name] != request[name]).any() for name in removed)
    assert np.array_equal(run(session, request)["clicked"], run(session, other)["clicked"])
    again = invoke(checkpoint, "--plan", tmp_path / "out/plan.json", "-o", tmp_path / "again", *QUICK_OPTIONS)
    assert json.loads((tmp_path / "again/manifest.json").read_text())["plan"]["fields"]["removed"] == removed, (
        again.stderr
    )
    refused = invoke(checkpoint, "--plan", tmp_path / "out/plan.json", "--prune-fields", 1, "-o", tmp_path / "no")
    assert (refused.exit_code, (tmp_path / "no").exists()) == (2, False)
    assert "A plan specifies the removed fields" in refused.stderr


@pytest.mark.slow
def test_rare_ids_share_rows_and_it_is_said(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    options = ["--prune-rows", "0.4", "--pruning-stages", "2", *QUICK_OPTIONS]
    made = invoke(checkpoint, "--data", clicks_file, "-o", tmp_path / "out", *options, "--verbose")
    assert made.exit_code == 0, made.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    rows, signature = manifest["plan"]["rows"], load_model(checkpoint, None, {}).program.signature
    assert [i["ids"] for i in manifest["signature"]["inputs"]] == [i["ids"] for i in signature.to_dict()["inputs"]]
    before, after = (sum(table[when] for table in rows["tables"]) for when in ("before", "after"))
    assert 0.5 < after / before < 0.7
    assert rows["soundness"]["error"] <= rows["soundness"]["tolerance"]
    assert rows["remap_bytes"] >= 4 * before
    parts = [rows["with_rare"], rows["without_rare"]]
    assert all(part["rows"] > 0 and {"dense", "pruned"} <= set(part["metrics"]) for part in parts)
    assert all("auc" in part["metrics"]["pruned"] for part in parts)
    assert manifest["plan"]["then"]["groups"]  # the second stage has channels to remove and no rows
    readme = (tmp_path / "out/README.md").read_text()
    for table in rows["tables"]:
        assert f"| `{table['table']}` | {table['before']:,} | {table['after']:,} |" in readme
        assert table["table"] in made.stdout.split("Tables in which rare ids share one row")[1]
    assert invoke("verify", tmp_path / "out").exit_code == 0
    plan = tmp_path / "out/plan.json"
    again = invoke(checkpoint, "--plan", plan, "-o", tmp_path / "again", *QUICK_OPTIONS)
    assert again.exit_code == 0, again.stderr
    without_data = json.loads((tmp_path / "again/manifest.json").read_text())["plan"]["rows"]
    assert without_data["tables"] == rows["tables"]
    assert without_data["with_rare"]["metrics"]["pruned"]["clicked/distance"] > 0
    refused = invoke(checkpoint, "--plan", plan, "--prune-rows", "auto", "-o", tmp_path / "no")
    assert_refused(refused, 2, "A plan specifies the removed rows")


def test_a_table_that_scores_the_items_keeps_its_rows(sequences_file: Path, tmp_path: Path) -> None:
    train(sequences_file, "sasrec", tmp_path / "model.pt", SchemaOverrides(), {"dim": 8}, epochs=1)
    refused = invoke(tmp_path / "model.pt", "--data", sequences_file, "--prune-rows", "auto", "-o", tmp_path / "out")
    assert_refused(refused, 4, "--prune-rows found no table whose rows can be reduced: 'items.weight': it is also read")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        compress(checkpoint, target=tmp_path / name, data=clicks_file, settings=QUICK)
    one, two = (onnx.load(tmp_path / name / "model.onnx").graph.initializer for name in ("one", "two"))
    assert [t.SerializeToString() for t in one] == [t.SerializeToString() for t in two]


@pytest.mark.slow
def test_ranking_goes_the_whole_way(sequences_file: Path, tmp_path: Path) -> None:
    train(sequences_file, "sasrec", tmp_path / "model.pt", config={"dim": 16}, epochs=2, batch_size=64)
    result = compress(tmp_path / "model.pt", target=tmp_path / "out", data=sequences_file, settings=QUICK)
    assert set(result.metrics["pruned"]) == {"hr@10", "ndcg@10"}
    assert result.reduction.tables >= 0.7


def make_model(scale: float = 1.0) -> torch.nn.Module:
    """A factory for `--factory`."""
    torch.manual_seed(0)
    module = build_recommender("deepfm", CLICKS, SMALL["deepfm"])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    return module


def write_example(path: Path, rows: int = 4) -> Path:
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(high, size=rows) for name, high in CLICKS.categorical.items()}
    tags = rng.integers(9, size=(rows, 4))
    np.savez(path, **ids, **{"tags.all": tags}, numeric=rng.normal(size=(rows, 3)))
    return path


def test_a_state_dict_with_its_factory_goes_the_whole_way(tmp_path: Path) -> None:
    torch.save(make_model().state_dict(), tmp_path / "weights.pt")
    example = write_example(tmp_path / "example.npz")
    factory = ["--factory", "tests.test_api_jobs:make_model", "--factory-args", '{"scale": 2.0}']
    made = invoke(tmp_path / "weights.pt", *factory, "--inputs", example, "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    assert "No --data" in made.stderr
    assert verify(tmp_path / "out").outputs[0].name == "click"


def test_a_foreign_model_is_tuned_on_arrays_of_its_own(tmp_path: Path) -> None:
    torch.save(make_model().state_dict(), tmp_path / "weights.pt")
    example = write_example(tmp_path / "example.npz")
    rows = dict(np.load(write_example(tmp_path / "rows.npz", rows=400)))
    np.savez(tmp_path / "rows.npz", **rows, click=np.random.default_rng(1).integers(2, size=400))
    options = ["--factory", "tests.test_api_jobs:make_model", "--inputs", example, "--data", tmp_path / "rows.npz"]
    made = invoke(tmp_path / "weights.pt", *options, "--label", "click", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    assert "auc" in json.loads((tmp_path / "out/manifest.json").read_text())["metrics"]["pruned"]
    unlabelled = invoke(tmp_path / "weights.pt", *options, "-o", tmp_path / "other")
    assert (unlabelled.exit_code, "--label" in unlabelled.stderr) == (2, True)


def test_a_bundle_holds_the_plans_and_proofs_of_all_steps(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    options = ["--pruning-stages", "2", "--score", "magnitude-l2", "--data", clicks_file, "--verbose"]
    made = invoke(checkpoint, *options, "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.count("The pruned model equals the masked model to") == 2
    manifest, plan = (json.loads((tmp_path / "out" / name).read_text()) for name in ("manifest.json", "plan.json"))
    first, second = (manifest["plan"], plan), (manifest["plan"]["then"], plan["then"])
    for said, applied in (first, second):
        assert [g["kept"] for g in said["groups"]] == [len(g["keep"]) for g in applied["groups"]]
        assert said["soundness"]["error"] <= said["soundness"]["tolerance"]
        assert len(said["finetuning"]["epochs"]) == 1
    counts = manifest["counts"]
    assert counts["pruned"]["tables"]["nonzero"] <= 0.3 * counts["dense"]["tables"]["parameters"]


@pytest.mark.slow
def test_regularised_training_is_told_in_the_manifest(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    done = invoke(checkpoint, "--data", clicks_file, "--regularize", "3", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "out/manifest.json").read_text())["plan"]["regularization"]
    assert told["strength"] == 3.0
    assert sum(told["zero_channels"].values()) > 0
    assert "channels with zero weights" in done.stderr


class Nested(torch.nn.Module):
    """A model of somebody else: a dict inside a tuple, and a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = torch.nn.Embedding(50, 16), torch.nn.Embedding(40, 16)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(34, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def forward(self, ids: tuple[dict[str, torch.Tensor], torch.Tensor], *, context: torch.Tensor) -> torch.Tensor:
        (named, item) = ids
        return self.mlp(torch.cat([self.users(named["user"]), self.items(item), context], 1)).squeeze(1)


def test_a_module_in_memory_with_nested_inputs_and_arrays_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    example = {"ids": ({"user": torch.tensor([1, 2])}, torch.tensor([3, 4])), "context": torch.zeros(2, 2)}
    names = [i.name for i in load_model(Nested(), example, {}).program.signature.inputs]
    user, item, context = names
    rows = {user: rng.integers(50, size=600), item: rng.integers(40, size=600), context: rng.normal(size=(600, 2))}
    rows["liked"] = (rows[user] % 2).astype(float)
    result = compress(
        Nested(), example, tmp_path / "out", data=rows, labels="liked", settings=QUICK, sparsity=0.5, epochs=2
    )
    assert set(result.metrics["pruned"]) == {"auc", "logloss"}
    assert min(result.reduction.tables, result.reduction.rest) >= 0.5
    assert verify(tmp_path / "out").rows > 0


def test_a_module_needs_an_example_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Nested requires an example request"):
        compress(Nested(), target=tmp_path / "out")
