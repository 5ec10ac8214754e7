"""The main job on files, and all that may be wrong with them: one sentence, the documented exit code, nothing left."""

import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import numpy_helper

from recprune_export.api import compress, load_model
from recprune_export.bundle import read_manifest, verify
from recprune_export.cli import main
from recprune_export.data import SchemaOverrides
from recprune_export.errors import UsageError, ValidationFailed
from recprune_export.onnx import SessionOptions, make_session, run
from recprune_export.pipeline import export_models
from recprune_export.program import load_program
from recprune_export.recommenders import build_recommender
from recprune_export.report import render_saved_bundle_report
from recprune_export.settings import Settings
from recprune_export.training import train
from tests.bundle.archive.test_manifest_signature import key_pair
from tests.bundle.pbtxt import parse
from tests.bundle.servers.test_kserve import array
from tests.recommenders.test_recommenders import CLICKS, SMALL
from tests.report.properties import check_page

QUICK = Settings(epochs=1, latency_batch_sizes=(1, 64))
QUICK_OPTIONS = ["--epochs", "1", "--latency-batch-sizes", "1,64", "--quiet"]


@pytest.fixture(scope="module")
def checkpoint(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    train(
        clicks_file,
        "dlrm",
        path,
        SchemaOverrides(labels=("clicked",)),
        {"dim": 16, "hidden": (64, 32)},
        epochs=2,
        batch_size=256,
    )
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "ctr"
    compress(checkpoint, target=target, data=clicks_file, settings=QUICK)
    return target


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_bundle_is_complete_and_verifies(bundle: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == {
        "model.onnx", "model.pt2", "dense.onnx", "encoding.json", "plan.json", "README.md", "manifest.json",
        "data_profile.json", "report.html",
        "samples/inputs.npz", "samples/outputs.npz", "samples/kserve-request.json", "samples/kserve-response.json",
        "triton/ctr/config.pbtxt", "triton/ctr/1/model.onnx",
        *(f"triton/ctr/warmup/input-{n}" for n in range(len(json.loads((bundle / "manifest.json").read_text())["signature"]["inputs"]))),
    }  # fmt: skip
    assert verify(bundle).rows == 16


def test_the_manifest_says_what_the_bundle_was_made_of(bundle: Path, checkpoint: Path, clicks_file: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for what, path in (("model", checkpoint), ("data", clicks_file)):
        told = manifest["provenance"][what]
        assert (told["name"], told["bytes"]) == (path.name, path.stat().st_size)
        assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(manifest["provenance"]["seeds"]) == {"compression", "training"}
    assert manifest["licence"] is None
    encoding, inputs = manifest["encoding"], {i["name"]: i for i in manifest["signature"]["inputs"]}
    assert {*encoding["vocabularies"], "numeric"} == set(inputs)
    for name, vocabulary in encoding["vocabularies"].items():
        assert inputs[name]["ids"] == [[0, vocabulary["first"] + vocabulary["values"] - 1]]


def test_a_real_model_is_batched_by_triton_and_answers_as_the_samples_say(bundle: Path) -> None:
    config = parse((bundle / "triton/ctr/config.pbtxt").read_text())
    assert config.max_batch_size == max(QUICK.latency.latency_batch_sizes)
    asked, said = (json.loads((bundle / f"samples/kserve-{part}.json").read_text()) for part in ("request", "response"))
    ranks = {
        i["name"]: len(i["shape"]) for i in json.loads((bundle / "manifest.json").read_text())["signature"]["inputs"]
    }
    request = {t["name"]: array(t).reshape(t["shape"][: ranks[t["name"]]]) for t in asked["inputs"]}
    answer = run(make_session(bundle / "triton/ctr/1/model.onnx", 1), request)
    for tensor in said["outputs"]:
        np.testing.assert_allclose(answer[tensor["name"]].ravel(), array(tensor).ravel(), atol=1e-5)


def test_the_page_in_the_bundle_is_that_of_its_manifest(bundle: Path) -> None:
    page = (bundle / "report.html").read_text()
    assert render_saved_bundle_report(bundle) == page
    check_page(page)
    manifest = read_manifest(bundle)
    low, high = manifest.change["interval"]
    assert low <= manifest.change["after"] - manifest.change["before"] <= high
    assert manifest.change["after"] == pytest.approx(manifest.metrics["pruned"]["auc"], abs=1e-6)
    assert manifest.change["before"] == pytest.approx(manifest.metrics["dense"]["auc"], abs=1e-6)
    for of in manifest.latency["milliseconds"].values():
        for values in of.values():
            known = dict(zip(manifest.latency["percents"], values["distribution"], strict=True))
            assert [known[p] for p in (50, 95, 99)] == pytest.approx([values[f"p{p}"] for p in (50, 95, 99)], abs=1e-6)


def test_session_options_and_cold_starts_are_stated(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["session"] == {"options": SessionOptions(threads=QUICK.latency.threads).to_dict()}
    assert SessionOptions.from_dict(manifest["session"]["options"]).code() in (bundle / "README.md").read_text()
    for name in ("dense ONNX", "pruned ONNX"):
        assert manifest["latency"]["footprint"][name]["load"] > 0


def test_the_sparsity_asked_for_is_in_the_file(bundle: Path) -> None:
    counts = json.loads((bundle / "manifest.json").read_text())["counts"]
    for part in ("tables", "rest"):
        assert counts["pruned"][part]["nonzero"] <= 0.3 * counts["dense"][part]["parameters"]
    weights = [numpy_helper.to_array(t) for t in onnx.load(bundle / "model.onnx").graph.initializer]
    assert sum(int((w == 0).sum()) for w in weights if w.dtype == np.float32) > 0


def test_the_program_in_the_bundle_is_a_model_again(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    program = load_program(bundle / "model.pt2").program
    answers = np.load(bundle / "samples/outputs.npz")
    request = {name: torch.from_numpy(a) for name, a in np.load(bundle / "samples/inputs.npz").items()}
    with torch.no_grad():
        np.testing.assert_allclose(program(request)["clicked"].numpy(), answers["clicked"], atol=1e-6)
    again = compress(bundle / "model.pt2", target=tmp_path / "again", settings=QUICK)
    assert again.reduction.tables > 0.69


def test_the_readme_runs_as_written(bundle: Path) -> None:
    code = (bundle / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bundle)
        exec(code, names)
    golden = np.load(bundle / "samples/outputs.npz")
    np.testing.assert_allclose(names["response"]["clicked"], golden["clicked"], atol=1e-5)  # type: ignore[index]


def test_predict_and_the_plain_example_score_a_real_model(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    done = invoke("predict", bundle, "--data", clicks_file, "-o", tmp_path / "scores.parquet", "--quiet")
    assert done.exit_code == 0, done.output
    scores, rows = pl.read_parquet(tmp_path / "scores.parquet")["clicked"].to_numpy(), pl.read_parquet(clicks_file)
    assert len(scores) == len(rows)
    assert np.corrcoef(scores, rows["clicked"].to_numpy())[0, 1] > 0.05
    example = Path(__file__).parents[1] / "examples/serve_onnxruntime.py"
    lines = "\n".join(json.dumps(row) for row in rows.head(300).to_dicts())
    served = subprocess.run([sys.executable, example, bundle], input=lines, capture_output=True, text=True, check=True)
    plain = np.array([json.loads(line)["clicked"] for line in served.stdout.splitlines()], dtype=np.float32)
    np.testing.assert_allclose(plain, scores[:300], atol=1e-6)


def test_a_bundle_of_a_module_states_licence_and_signature_and_leaves_triton_out(tmp_path: Path) -> None:
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
    assert (manifest["licence"], manifest["encoding"]) == ("MIT", None)
    assert (manifest["provenance"]["model"], manifest["provenance"]["data"]) == (None, None)
    assert not [name for name in manifest["files"] if name.startswith("triton/")]
    assert "triton" not in (tmp_path / "ctr/README.md").read_text()


@pytest.mark.parametrize(("option", "value"), [("--license", "free beer"), ("--sign", "absent.pem")])
def test_a_bad_licence_or_key_is_told_before_the_work(
    checkpoint: Path, tmp_path: Path, option: str, value: str
) -> None:
    done = invoke(checkpoint, option, value, "-o", tmp_path / "out")
    assert (done.exit_code, value in done.output) == (2, True)
    assert list(tmp_path.iterdir()) == []


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
    made = invoke(checkpoint, "--prune-fields", 2, "--data", clicks_file, "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    removed, importance = manifest["plan"]["fields"]["removed"], manifest["plan"]["fields"]["importance"]
    assert len(removed) == 2
    assert max(importance[name] for name in removed) <= min(importance[name] for name in set(importance) - set(removed))
    assert set(removed) < {i["name"] for i in manifest["signature"]["inputs"]}
    readme = (tmp_path / "out/README.md").read_text()
    assert all(name in made.stdout.split("Fields removed")[1] for name in removed)
    assert "Ignored, but still sent: " + ", ".join(f"`{name}`" for name in removed) in readme
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
    assert "A plan says itself which fields go" in refused.stderr


@pytest.mark.slow
def test_rare_ids_share_rows_and_it_is_said(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    options = ["--prune-rows", "0.4", "--pruning-stages", "2", *QUICK_OPTIONS]
    made = invoke(checkpoint, "--data", clicks_file, "-o", tmp_path / "out", *options)
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
        assert table["table"] in made.stdout.split("Rows: rare ids share one")[1]
    assert invoke("verify", tmp_path / "out").exit_code == 0
    plan = tmp_path / "out/plan.json"
    again = invoke(checkpoint, "--plan", plan, "-o", tmp_path / "again", *QUICK_OPTIONS)
    assert again.exit_code == 0, again.stderr
    without_data = json.loads((tmp_path / "again/manifest.json").read_text())["plan"]["rows"]
    assert without_data["tables"] == rows["tables"]
    assert without_data["with_rare"]["metrics"]["pruned"]["clicked/distance"] > 0
    refused = invoke(checkpoint, "--plan", plan, "--prune-rows", "auto", "-o", tmp_path / "no")
    assert_refused(refused, 2, "A plan says itself which rows go")


def test_a_table_that_scores_the_items_keeps_its_rows(sequences_file: Path, tmp_path: Path) -> None:
    train(sequences_file, "sasrec", tmp_path / "model.pt", SchemaOverrides(), {"dim": 8}, epochs=1)
    refused = invoke(tmp_path / "model.pt", "--data", sequences_file, "--prune-rows", "auto", "-o", tmp_path / "out")
    assert_refused(
        refused, 4, "--prune-rows finds no table that can do with fewer rows: 'items.weight': it is also read"
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        compress(checkpoint, target=tmp_path / name, data=clicks_file, settings=QUICK)
    one, two = (onnx.load(tmp_path / name / "model.onnx").graph.initializer for name in ("one", "two"))
    assert [t.SerializeToString() for t in one] == [t.SerializeToString() for t in two]


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
    factory = ["--factory", "tests.test_api:make_model", "--factory-args", '{"scale": 2.0}']
    made = invoke(tmp_path / "weights.pt", *factory, "--inputs", example, "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    assert "No --data" in made.stderr
    assert verify(tmp_path / "out").outputs[0].name == "click"


def test_a_foreign_model_is_tuned_on_arrays_of_its_own(tmp_path: Path) -> None:
    torch.save(make_model().state_dict(), tmp_path / "weights.pt")
    example = write_example(tmp_path / "example.npz")
    rows = dict(np.load(write_example(tmp_path / "rows.npz", rows=400)))
    np.savez(tmp_path / "rows.npz", **rows, click=np.random.default_rng(1).integers(2, size=400))
    options = ["--factory", "tests.test_api:make_model", "--inputs", example, "--data", tmp_path / "rows.npz"]
    made = invoke(tmp_path / "weights.pt", *options, "--label", "click", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    assert "auc" in json.loads((tmp_path / "out/manifest.json").read_text())["metrics"]["pruned"]
    unlabelled = invoke(tmp_path / "weights.pt", *options, "-o", tmp_path / "other")
    assert (unlabelled.exit_code, "--label" in unlabelled.stderr) == (2, True)


def test_a_bundle_holds_the_plans_and_proofs_of_all_steps(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    options = ["--pruning-stages", "2", "--score", "magnitude-l2", "--data", clicks_file]
    made = invoke(checkpoint, *options, "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.count("Pruned equals masked to") == 2
    manifest, plan = (json.loads((tmp_path / "out" / name).read_text()) for name in ("manifest.json", "plan.json"))
    first, second = (manifest["plan"], plan), (manifest["plan"]["then"], plan["then"])
    for said, applied in (first, second):
        assert [g["kept"] for g in said["groups"]] == [len(g["keep"]) for g in applied["groups"]]
        assert said["soundness"]["error"] <= said["soundness"]["tolerance"]
        assert len(said["finetuning"]["epochs"]) == 1
    counts = manifest["counts"]
    assert counts["pruned"]["tables"]["nonzero"] <= 0.3 * counts["dense"]["tables"]["parameters"]


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


def truncated(path: Path, checkpoint: Path) -> None:
    path.write_bytes(checkpoint.read_bytes()[:-300])


def other_zip(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "hello")


def trap(path: Path, _: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(path.with_name("mark"))))


def trap_by_torch(path: Path, _: Path) -> None:
    torch.save({"model": Trap(path.with_name("mark"))}, path)


def nan_in_a_table(path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    next(v for v in content["state"].values() if v.ndim == 2)[2, 1] = torch.nan
    torch.save(content, path)


BAD_MODELS: list[tuple[str, Callable[[Path, Path], object], int, str]] = [
    ("missing file", lambda path, _: None, 3, "there is nothing"),
    ("empty file", lambda path, _: path.touch(), 3, "an empty file"),
    ("truncated checkpoint", truncated, 3, "cut off or damaged"),
    ("zip that is no checkpoint", other_zip, 3, "PyTorch did not write"),
    ("pickle", trap, 3, "--unsafe-unpickle"),
    ("pickle by torch.save", trap_by_torch, 3, "--unsafe-unpickle"),
    ("text", lambda path, _: path.write_text("a model"), 3, "unknown kind"),
    ("NaN in a table", nan_in_a_table, 3, "holds nan at [2, 1]"),
    ("state dict without a factory", lambda path, _: torch.save({"w": torch.ones(2)}, path), 2, "--factory"),
]


@pytest.mark.parametrize(
    ("make", "code", "said"), [case[1:] for case in BAD_MODELS], ids=[case[0] for case in BAD_MODELS]
)
def test_a_bad_model_file(
    make: Callable[[Path, Path], object], code: int, said: str, checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.pt"
    make(model, checkpoint)
    before = set(tmp_path.iterdir())
    done = invoke(model, "--data", clicks_file, "-o", tmp_path / "out")
    assert_refused(done, code, said)
    assert set(tmp_path.iterdir()) == before  # no bundle, and nothing in a pickle ran


def rows_without_label(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("clicked")


def text_for_a_number(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit("cheap").alias("price"))


BAD_DATA: list[tuple[str, Callable[[pl.DataFrame], pl.DataFrame], str]] = [
    ("no label", rows_without_label, "no column 'clicked'"),
    ("wrong dtype", text_for_a_number, "takes it as a number"),
    ("label of three values", lambda f: f.with_columns(pl.lit(2).alias("clicked")), "must be 0 or 1"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in BAD_DATA], ids=[case[0] for case in BAD_DATA])
def test_bad_rows(
    change: Callable[[pl.DataFrame], pl.DataFrame], said: str, checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    change(pl.read_parquet(clicks_file)).write_parquet(tmp_path / "rows.parquet")
    done = invoke(checkpoint, "--data", tmp_path / "rows.parquet", "-o", tmp_path / "out")
    assert_refused(done, 3, said)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_an_id_beyond_the_vocabulary_of_a_foreign_model(bundle: Path, tmp_path: Path) -> None:
    rows = {name: values.repeat(20, 0) for name, values in np.load(bundle / "samples/inputs.npz").items()}
    rows["user"][5] = 10**6
    np.savez(tmp_path / "rows.npz", **rows, clicked=np.zeros(320))
    done = invoke(bundle / "model.pt2", "--data", tmp_path / "rows.npz", "--label", "clicked", "-o", tmp_path / "out")
    assert_refused(done, 3, "holds the id 1e+06 at row 5")


def test_an_unknown_value_of_our_own_recommender_is_out_of_vocabulary(
    checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(clicks_file).with_columns(pl.lit("never seen").alias("user"))
    frame.write_parquet(tmp_path / "rows.parquet")
    done = invoke(checkpoint, "--data", tmp_path / "rows.parquet", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sparsity", "1.2"], "--sparsity must lie in [0, 1)"),
        (["--sparsity", "-0.1"], "--sparsity must lie in [0, 1)"),
        (["--hidden-sparsity", "1"], "--hidden-sparsity must lie"),
        (["--structured-fraction", "2"], "--structured-fraction"),
        (["--latency-batch-sizes", "1,many"], "--latency-batch-sizes"),
        (["--latency-batch-sizes", "0"], "--latency-batch-sizes"),
        (["--score", "luck"], "'luck' is not one of 'auto'"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--pruning-stages", "0"], "--pruning-stages must be 1 or more"),
        (["--prune-rows", "1"], "--prune-rows must lie in (0, 1)"),
        (["--prune-rows", "few"], "--prune-rows 'few' is no number"),
        (["--prune-rows", "auto"], "--prune-rows has to see which ids are rare: give --data"),
        (["--factory-args", "{"], "--factory-args"),
    ],
)
def test_a_bad_option(options: list[str], said: str, checkpoint: Path, tmp_path: Path) -> None:
    assert_refused(invoke(checkpoint, *options, "-o", tmp_path / "out"), 2, said)
    assert not list(tmp_path.iterdir())


def test_a_target_that_is_in_the_way(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for target, said in (("papers", "is not a bundle"), ("file", "is a file"), ("file/below", "cannot be written")):
        done = invoke(checkpoint, "-o", tmp_path / target)
        assert done.exit_code == 2
        assert "Error: " in done.stderr, said
    assert (tmp_path / "papers" / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "papers"]


def test_a_target_that_is_read_only(checkpoint: Path) -> None:
    target = Path("/proc/self/bundle")  # not even root may write there
    if not target.parent.is_dir():
        pytest.skip("there is no /proc to try it on")
    assert_refused(invoke(checkpoint, "-o", target), 2, "No bundle can be written")


def test_a_failed_validation_leaves_the_old_bundle(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(checkpoint, target=tmp_path / "out", settings=QUICK)
    before = (tmp_path / "out/manifest.json").read_bytes()
    honest = export_models.export_onnx

    def wrong(program: object, path: Path, **options: object) -> object:
        """Export, then change one weight."""
        file = honest(program, path, **options)  # type: ignore[arg-type]
        model = onnx.load(path)
        tensor = next(t for t in model.graph.initializer if t.name == "head.bias")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1.0, tensor.name))
        onnx.save(model, path)
        return file

    monkeypatch.setattr(export_models, "export_onnx", wrong)
    with pytest.raises(ValidationFailed, match="nothing was written"):
        compress(checkpoint, target=tmp_path / "out", settings=QUICK)
    done = invoke(checkpoint, "-o", tmp_path / "new", *QUICK_OPTIONS)
    assert_refused(done, 1, "does not give the pruned model's outputs")
    assert (tmp_path / "out/manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_inspect_says_what_can_go(checkpoint: Path) -> None:
    values = json.loads(invoke("inspect", checkpoint, "--json").stdout)
    assert values["parameters"]["tables"] > values["parameters"]["rest"] > 0
    assert {group["kind"] for group in values["groups"]} == {"embedding", "hidden"}
    assert all(axis["reason"] for axis in values["frozen"])
    shown = invoke("inspect", checkpoint)
    assert shown.exit_code == 0
    assert "Channel groups" in shown.stdout


def test_inspect_compares_scores(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(checkpoint.read_bytes())
    done = invoke("inspect", model, "--scores", "--data", clicks_file, "--json")
    assert done.exit_code == 0, done.stderr
    groups = json.loads(done.stdout)["sensitivity"]["groups"]
    assert {"taylor", "output-error"} <= set(groups[0]["scores"])
    shown = invoke("inspect", model, "--scores")
    assert shown.exit_code == 0, shown.stderr
    assert "Rank agreement" in shown.stdout
    assert_refused(invoke("inspect", model, "--data", clicks_file), 2, "give that as well")


@pytest.mark.slow
def test_regularised_training_is_told_in_the_manifest(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    done = invoke(checkpoint, "--data", clicks_file, "--regularize", "3", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "out/manifest.json").read_text())["plan"]["regularisation"]
    assert told["strength"] == 3.0
    assert sum(told["zero_channels"].values()) > 0
    assert "channels without any weight" in done.stderr


def test_verify_says_what_is_wrong(bundle: Path, tmp_path: Path) -> None:
    assert invoke("verify", bundle).exit_code == 0
    assert json.loads(invoke("verify", bundle, "--json").stdout)["rows"] == 16
    assert_refused(invoke("verify", tmp_path), 3, "manifest.json")


def test_train_and_generate_from_the_command_line(tmp_path: Path) -> None:
    assert invoke("generate", "--rows", 800, "-o", tmp_path / "rows.csv").exit_code == 0
    options = ["--data", tmp_path / "rows.csv", "--label", "clicked", "--epochs", 1, "--hidden", "8,4", "--dim", 4]
    done = invoke("train", *options, "--recommender", "dcn_v2", "-o", tmp_path / "model.pt")
    assert done.exit_code == 0, done.stderr
    assert "Test: auc" in done.stdout
    assert_refused(
        invoke("train", *options, "--recommender", "dcn", "-o", tmp_path / "no.pt"), 2, "no recommender 'dcn'"
    )


def assert_refused(done: Result, code: int, said: str) -> None:
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(message) == 1


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
    with pytest.raises(UsageError, match="Nested needs one request"):
        compress(Nested(), target=tmp_path / "out")
