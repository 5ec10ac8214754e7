"""`reapply`: the same weights give the same file, new ones a sound one, and what does not fit is refused in words."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import MANIFEST, Manifest, pack, read_manifest, verify
from recprune_export.errors import BundleError, DataError, UsageError
from recprune_export.reapply import ReappliedPlan, reapply
from recprune_export.refresh.open_bundle import open_bundle
from tests.jobs import assert_refused, invoke
from tests.reapply.models import save_clicks, write_rows

QUICK: dict[str, Any] = {"epochs": 0, "quick": True, "latency_batch_sizes": (1,)}
POINTS: dict[str, dict[str, Any]] = {
    "sparsity": {"sparsity": 0.7},
    "bytes": {"max_bytes": "12%"},
    "score": {"sparsity": 0.6, "score": "taylor"},
    "int8": {"sparsity": 0.5, "quantize": "int8", "max_quantize_drop": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two seeds and rows."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        save_clicks(folder / f"seed{seed}.pt2", seed)
    write_rows(folder / "rows.npz")
    return folder


@pytest.fixture(
    scope="module", params=["sparsity", *(pytest.param(p, marks=pytest.mark.slow) for p in POINTS if p != "sparsity")]
)
def bundle(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A bundle of the weights of seed 0, which keeps as many rows as its statistics read."""
    target, point = folder / f"bundle-{request.param}", POINTS[request.param]
    rows = folder / "rows.npz"
    compress(folder / "seed0.pt2", target=target, data=rows, labels="click", calibration_rows=3000, **QUICK, **point)
    return target


@pytest.fixture(scope="module")
def without_rows(folder: Path) -> Path:
    target = folder / "without-rows"
    compress(folder / "seed0.pt2", target=target, **QUICK, **POINTS["sparsity"])
    return target


def read_onnx(bundle: Path) -> bytes:
    return (bundle / "model.onnx").read_bytes()


def edited(bundle: Path, target: Path, without: Collection[str]) -> Path:
    """Return a copy of a bundle without some files."""
    shutil.copytree(bundle, target)
    manifest = read_manifest(bundle)
    for name in without:
        (target / name).unlink()
    files = {name: entry for name, entry in manifest.files.items() if name not in without}
    (target / MANIFEST).write_text(manifest.with_files(files).to_json())
    return target


def list_forms(manifest: Manifest) -> dict[str, str]:
    section = manifest.quantization
    return {weight["name"]: weight["form"] for part in ("layers", "tables") for weight in section.get(part, ())}


def check_bundle(applied: ReappliedPlan, baseline: Path) -> None:
    """Masked equals pruned, ONNX equals PyTorch, and the plan is the same but for channels and rotations."""
    verify(applied.result.target)
    manifest, before = read_manifest(applied.result.target), read_manifest(baseline)
    assert manifest.plan["soundness"]["error"] <= manifest.plan["soundness"]["tolerance"] <= 1e-9
    assert applied.result.parity.passed
    assert manifest.plan["groups"] == before.plan["groups"]
    assert manifest.plan.get("storage", {}).get("bits") == before.plan.get("storage", {}).get("bits")
    assert manifest.signature == before.signature
    assert list_forms(manifest) == list_forms(before)
    assert manifest.provenance is not None
    assert manifest.provenance["baseline"] == {"name": before.name, "checksum": before.checksum}


@pytest.mark.parametrize("statistics", ["data", "kept rows"])
def test_the_same_weights_give_the_same_file(bundle: Path, folder: Path, tmp_path: Path, statistics: str) -> None:
    data = folder / "rows.npz" if statistics == "data" else None
    applied = reapply(bundle, folder / "seed0.pt2", tmp_path / "again", data=data)
    if data is not None or "score" not in bundle.name:  # taylor reads labels, which are not kept
        assert read_onnx(tmp_path / "again") == read_onnx(bundle)
    assert applied.holds is not False
    check_bundle(applied, bundle)


def test_without_rows_the_same_weights_give_the_same_file(without_rows: Path, folder: Path, tmp_path: Path) -> None:
    applied = reapply(without_rows, folder / "seed0.pt2", tmp_path / "again")
    assert read_onnx(tmp_path / "again") == read_onnx(without_rows)
    assert applied.holds is True
    check_bundle(applied, without_rows)


def test_new_weights_give_a_sound_file_and_always_the_same(bundle: Path, folder: Path, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path / "old.tar.zst")
    first = reapply(bundle, folder / "seed1.pt2", tmp_path / "first")
    second = reapply(packed, folder / "seed1.pt2", tmp_path / "second")
    check_bundle(first, bundle)
    assert read_onnx(tmp_path / "first") == read_onnx(tmp_path / "second") != read_onnx(bundle)
    assert first.findings == second.findings
    old, new = (open_bundle(path).plan for path in (bundle, tmp_path / "first"))
    assert [g.transform is None for g in old.groups] == [g.transform is None for g in new.groups]
    assert [g.turned for g in old.groups] == [g.turned for g in new.groups]
    again = reapply(tmp_path / "first", folder / "seed1.pt2", tmp_path / "third")  # a bundle that is the next baseline
    assert read_onnx(tmp_path / "third") == read_onnx(tmp_path / "first")
    assert again.holds is not False


def test_tuning_changes_the_weights_and_not_the_plan(bundle: Path, folder: Path, tmp_path: Path) -> None:
    tuned = reapply(bundle, folder / "seed1.pt2", tmp_path / "tuned", data=folder / "rows.npz", epochs=1)
    plain = reapply(bundle, folder / "seed1.pt2", tmp_path / "plain", data=folder / "rows.npz")
    check_bundle(tuned, bundle)
    assert open_bundle(tmp_path / "tuned").plan == open_bundle(tmp_path / "plain").plan
    assert read_onnx(tmp_path / "tuned") != read_onnx(tmp_path / "plain")
    assert {finding.measure for finding in plain.findings} == {"distance from dense", "widths"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 40}, "'mlp.0.weight:0' has 40, where the model of the bundle has 48 channels"),
        ({"users": 401}, "the input 'user' has the range of ids 0 to 400, and in the bundle 0 to 399"),
        ({"activation": nn.GELU}, "the new model computes 'aten.gelu.default'"),
        ({"activation": nn.Tanh}, "where that of the bundle computes 'aten.relu.default'"),
    ],
)
def test_another_architecture_is_refused_by_its_first_difference(
    without_rows: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    other = save_clicks(tmp_path / "other.pt2", 0, **change)
    with pytest.raises(UsageError, match="is another model than that of") as error:
        reapply(without_rows, other, tmp_path / "again")
    assert said in str(error.value)
    assert not (tmp_path / "again").exists()


def test_other_inputs_are_refused(without_rows: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the input 'user' has the range of ids"):
        reapply(without_rows, checkpoint, tmp_path / "again")


def test_missing_statistics_are_asked_for(folder: Path, tmp_path: Path) -> None:
    options = {**QUICK, **POINTS["sparsity"]}
    compress(folder / "seed0.pt2", target=tmp_path / "old", data=folder / "rows.npz", labels="click", **options)
    with pytest.raises(UsageError, match=r"keeps no rows .* give --data, or make bundles with --calibration-rows"):
        reapply(tmp_path / "old", folder / "seed1.pt2", tmp_path / "new")
    assert reapply(tmp_path / "old", folder / "seed1.pt2", tmp_path / "new", data=folder / "rows.npz").result.metrics


def test_shared_rows_need_counts_of_all_rows(folder: Path, tmp_path: Path) -> None:
    options = {**QUICK, "sparsity": 0.5, "prune_rows": 0.3, "calibration_rows": 500}
    compress(folder / "seed0.pt2", target=tmp_path / "old", data=folder / "rows.npz", labels="click", **options)
    with pytest.raises(UsageError, match=r"rare ids share a row, .* give --data"):
        reapply(tmp_path / "old", folder / "seed0.pt2", tmp_path / "new")
    reapply(tmp_path / "old", folder / "seed0.pt2", tmp_path / "new", data=folder / "rows.npz")
    assert read_onnx(tmp_path / "new") == read_onnx(tmp_path / "old")


def test_bundles_without_a_plan_and_plans_of_several_stages_are_refused(
    without_rows: Path, folder: Path, tmp_path: Path
) -> None:
    old = edited(without_rows, tmp_path / "old", ["plan.json"])
    with pytest.raises(BundleError, match=r"has no plan.json, .* compress the model again"):
        reapply(old, folder / "seed1.pt2", tmp_path / "new")
    compress(folder / "seed0.pt2", target=tmp_path / "stages", sparsity=0.6, pruning_stages=2, **QUICK)
    with pytest.raises(UsageError, match="has 2 stages"):
        reapply(tmp_path / "stages", folder / "seed1.pt2", tmp_path / "new")
    with pytest.raises(UsageError, match="is the baseline of `check`"):
        reapply(without_rows, folder / "seed1.pt2", without_rows)


def test_kept_rows_that_do_not_fit_are_refused(bundle: Path, folder: Path, tmp_path: Path) -> None:
    changed = edited(bundle, tmp_path / "changed", ["calibration.npz"])
    for arrays, said in (
        ({"user": np.arange(9), "item": np.arange(9)}, "does not hold a row of each input"),
        ({"user": np.full(9, 400), "item": np.arange(9), "price": np.zeros(9, np.float32)}, "400"),
    ):
        np.savez(changed / "calibration.npz", **arrays)  # type: ignore[arg-type]
        manifest = read_manifest(bundle)
        content = (changed / "calibration.npz").read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        files = {**manifest.files, "calibration.npz": type(manifest.files["model.onnx"])(**entry)}
        (changed / MANIFEST).write_text(manifest.with_files(files).to_json())
        with pytest.raises(DataError, match=said):
            reapply(changed, folder / "seed1.pt2", tmp_path / "new")


def test_the_command_prints_the_verdict_and_the_line_of_check(without_rows: Path, folder: Path, tmp_path: Path) -> None:
    command = ("reapply", without_rows, "--model", folder / "seed0.pt2", "-o", tmp_path / "new")
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    assert f"The plan of {without_rows} holds for the new weights." in done.stdout
    assert f"recprune-export check {tmp_path / 'new'} --against {without_rows}" in done.stdout
    assert "The plan is that of without-rows" in done.stderr
    values = json.loads(invoke(*command, "--json").stdout)
    assert (values["bundle"], values["verdict"]) == (str(without_rows), "pass")
    _, *check = shlex.split(values["check"])
    checked = invoke(*check, "--time-limit", 2, "--undecided", "pass", "--latency-batch-sizes", "1")
    assert checked.exit_code == 0, checked.output
    assert invoke(*command, "--quiet").stdout == ""


@pytest.mark.slow
def test_what_is_open_or_fails_has_its_exit_code(folder: Path, tmp_path: Path, bundle: Path) -> None:
    if "sparsity" not in bundle.name:
        pytest.skip("one point suffices")
    command = [
        "reapply",
        bundle,
        "--model",
        folder / "seed1.pt2",
        "--data",
        folder / "rows.npz",
        "-o",
        tmp_path / "new",
    ]
    assert_refused(invoke(*command, "--max-drop", 0), 5, "was written")
    assert invoke(*command, "--max-drop", 0, "--undecided", "pass").exit_code == 0
    assert_refused(invoke(*command, "--max-drop", 0, "--undecided", "fail"), 1, "does not hold")
    verify(tmp_path / "new")
    assert_refused(invoke("reapply", bundle, "--model", tmp_path / "gone.pt2"), 3, "does not exist")


@pytest.mark.slow
def test_a_file_beyond_the_limit_of_its_plan_is_noted(folder: Path, tmp_path: Path) -> None:
    options = {**QUICK, **POINTS["bytes"]}
    compress(folder / "seed0.pt2", target=tmp_path / "old", data=folder / "rows.npz", labels="click", **options)
    manifest, plan = read_manifest(tmp_path / "old"), json.loads((tmp_path / "old" / "plan.json").read_text())
    stage = plan["stages"][-1] if "stages" in plan else plan
    stage["storage"]["max_bytes"] = manifest.files["model.onnx"].bytes - 7
    content = json.dumps(plan).encode()
    (tmp_path / "old" / "plan.json").write_bytes(content)
    entry = type(manifest.files["plan.json"])(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (tmp_path / "old" / MANIFEST).write_text(manifest.with_files({**manifest.files, "plan.json": entry}).to_json())
    applied = reapply(
        tmp_path / "old", folder / "seed0.pt2", tmp_path / "new", data=folder / "rows.npz", labels=("click",)
    )
    assert any("7 more than --max-bytes of the plan" in note for note in applied.result.notes)


def test_an_interrupt_leaves_nothing(
    without_rows: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recprune_export.pipeline.compress.evaluate_exports", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reapply(without_rows, folder / "seed1.pt2", tmp_path / "new", epochs=1)
    assert list(tmp_path.iterdir()) == []
    assert "--resume" not in capsys.readouterr().err
