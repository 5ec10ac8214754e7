"""All that may be wrong with the files of the main job: one sentence, the documented exit code, nothing left."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import numpy_helper

from recprune_export.api import compress
from recprune_export.errors import ValidationFailed
from recprune_export.pipeline import export_models
from tests.jobs import QUICK, QUICK_OPTIONS, assert_refused, invoke


@pytest.mark.parametrize(("option", "value", "exit_code"), [("--license", "free beer", 2), ("--sign", "absent.pem", 3)])
def test_a_bad_license_or_key_is_told_before_the_work(
    checkpoint: Path, tmp_path: Path, option: str, value: str, exit_code: int
) -> None:
    done = invoke(checkpoint, option, value, "-o", tmp_path / "out")
    assert (done.exit_code, value in done.output) == (exit_code, True)
    assert list(tmp_path.iterdir()) == []


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
    ("missing file", lambda path, _: None, 3, "does not exist"),
    ("empty file", lambda path, _: path.touch(), 3, "an empty file"),
    ("truncated checkpoint", truncated, 3, "truncated or damaged"),
    ("zip that is no checkpoint", other_zip, 3, "not written by PyTorch"),
    ("pickle", trap, 3, "--unsafe-unpickle"),
    ("pickle by torch.save", trap_by_torch, 3, "--unsafe-unpickle"),
    ("text", lambda path, _: path.write_text("a model"), 3, "unknown kind"),
    ("NaN in a table", nan_in_a_table, 3, "contains nan at [2, 1]"),
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
    ("wrong dtype", text_for_a_number, "expects it as a number"),
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
    assert_refused(done, 3, "contains the id 1e+06 at row 5")


def test_an_unknown_value_of_our_own_recommender_is_out_of_vocabulary(
    checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(clicks_file).with_columns(pl.lit("never seen").alias("user"))
    frame.write_parquet(tmp_path / "rows.parquet")
    job = (checkpoint, "--data", tmp_path / "rows.parquet", "-o", tmp_path / "out", *QUICK_OPTIONS)
    assert_refused(invoke(*job), 3, "are unknown to the model, such as 'never seen'")
    done = invoke(*job, "--allow-unknown")
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
        (["--score", "luck"], "'luck' is not one of 'output-error'"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--pruning-stages", "0"], "--pruning-stages must be 1 or more"),
        (["--prune-rows", "1"], "--prune-rows must lie in (0, 1)"),
        (["--prune-rows", "few"], "--prune-rows 'few' is not a number"),
        (["--prune-rows", "auto"], "--prune-rows requires rows to determine rare ids: give --data"),
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


def test_a_disk_without_room_for_the_model(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    done = invoke(checkpoint, "-o", tmp_path / "out")
    assert_refused(done, 2, "MB of free space, but the run takes at least")
    assert not list(tmp_path.iterdir())


def test_a_failed_validation_leaves_the_old_bundle(
    checkpoint: Path, clicks_file: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "out")
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
        compress(checkpoint, target=tmp_path / "out", data=clicks_file, settings=QUICK)
    done = invoke(checkpoint, "--data", clicks_file, "-o", tmp_path / "new", *QUICK_OPTIONS)
    assert_refused(done, 1, "does not reproduce the pruned model's outputs")
    assert (tmp_path / "out/manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_verify_says_what_is_wrong(bundle: Path, tmp_path: Path) -> None:
    assert invoke("verify", bundle).exit_code == 0
    assert json.loads(invoke("verify", bundle, "--json").stdout)["golden_rows"] == 16
    assert_refused(invoke("verify", tmp_path), 3, "manifest.json")


def test_a_label_that_a_checkpoint_does_not_predict_is_refused(
    checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    done = invoke(checkpoint, "--data", clicks_file, "--label", "klicked", "-o", tmp_path / "out")
    assert_refused(done, 2, "klicked")
