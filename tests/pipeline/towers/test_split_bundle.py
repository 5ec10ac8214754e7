"""`split` writes a bundle with a file for each tower, vectors of items by raw values, and an index."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recprune_export.bundle import read_manifest, verify
from recprune_export.data import SchemaOverrides
from recprune_export.gate import Limits, check
from recprune_export.onnx import make_session, run
from recprune_export.prediction import predict
from recprune_export.training import train
from tests.jobs import assert_refused, invoke

JOB = ("--epochs", "0", "--sparsity", "0.3", "--latency-batch-sizes", "8", "--quick")


@pytest.fixture(scope="module")
def bundle(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two towers, `user` and all other fields."""
    folder = tmp_path_factory.mktemp("towers")
    overrides = SchemaOverrides(labels=("clicked",))
    train(clicks_file, "two_tower", folder / "model.pt", overrides, {"dim": 8, "hidden": (16, 8)}, epochs=1)
    done = invoke(folder / "model.pt", *JOB, "-o", folder / "bundle")
    assert done.exit_code == 0, done.stderr
    return folder / "bundle"


@pytest.fixture(scope="module")
def items(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items") / "items.parquet"
    rows = pl.read_parquet(clicks_file).unique("item", keep="first", maintain_order=True)
    rows.select(
        "item", *(name for name in rows.columns if name not in ("item", "user", "clicked", "split"))
    ).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def apart(bundle: Path, items: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("apart") / "bundle"
    pytest.importorskip("faiss")
    done = invoke("split", bundle, "--items", items, "--top-k", 20, "-o", target)
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert "recall against exact search" in done.stdout
    return target


def test_the_new_bundle_verifies(apart: Path) -> None:
    assert {"user.onnx", "item.onnx"} <= {output.file for output in verify(apart).outputs}
    manifest = read_manifest(apart)
    assert manifest.models["user.onnx"]["parity"]["passed"]
    assert manifest.towers["parity"]["passed"]
    assert manifest.towers["user"]["inputs"] == ["user"]
    readme = (apart / "README.md").read_text()
    assert "`user.onnx` and `item.onnx` are the two towers of the model" in readme
    assert 'faiss.read_index("items.faiss")' in readme


def test_the_readme_names_omissions_as_that_of_the_whole_model_does(bundle: Path, apart: Path) -> None:
    (stated,) = (line for line in (bundle / "README.md").read_text().splitlines() if "--quick left out" in line)
    assert "`recprune-export report BUNDLE`" in stated
    assert stated in (apart / "README.md").read_text().splitlines()


def test_the_code_of_the_readme_finds_the_best_items(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(apart)
    names: dict[str, Any] = {}
    for block in (apart / "README.md").read_text().split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert names["best"].shape == (16, 20)
    exact = np.sort(names["vectors"] @ np.load("items.npy").T, axis=1)[:, ::-1]
    np.testing.assert_allclose(names["products"][:, 0], exact[:, 0], rtol=1e-3)


def test_a_user_and_an_item_score_as_their_row_does(
    apart: Path, items: Path, clicks_file: Path, tmp_path: Path
) -> None:
    name = str(pl.read_parquet(clicks_file)["user"][0])
    table = pl.read_parquet(items).head(50).with_columns(user=pl.lit(name))
    table.write_parquet(tmp_path / "rows.parquet")
    predict(apart, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
    scores = pl.read_parquet(tmp_path / "scores.parquet").to_series().to_numpy()
    values = json.loads((apart / "encoding.json").read_text())["vocabularies"]["user"]
    user = np.array([values.index(name) + 1])
    vector = run(make_session(apart / "user.onnx", 1), {"user": user})["user_vector"]
    (shift,) = (step["number"] for step in read_manifest(apart).towers["steps"])
    assert np.allclose(np.load(apart / "items.npy")[:50] @ vector[0] + shift, scores, atol=1e-4)
    assert np.load(apart / "item_ids.npy")[:50].tolist() == table["item"].to_list()


def test_the_index_finds_the_best_items(apart: Path) -> None:
    faiss = pytest.importorskip("faiss")
    index, vectors = faiss.read_index(str(apart / "items.faiss")), np.load(apart / "items.npy")
    users = run(make_session(apart / "user.onnx", 1), {"user": np.arange(1, 200)})["user_vector"]
    products, rows = index.search(users, 20)
    exact = np.sort(users @ vectors.T, axis=1)[:, ::-1][:, :20]
    assert np.isclose(products, exact, atol=1e-4).mean() > 0.9
    assert np.allclose(products, np.take_along_axis(users @ vectors.T, rows, 1), atol=1e-4)
    entry = read_manifest(apart).towers["index"]
    assert entry["recall"] > 0.9
    assert entry["bytes"] == (apart / "items.faiss").stat().st_size
    assert {"bytes", "recall", "same_best_items"} <= set(entry["dense"])


def test_a_bundle_is_replaced_in_its_place_and_can_be_split_again(apart: Path, tmp_path: Path) -> None:
    shutil.copytree(apart, tmp_path / "bundle")
    done = invoke("split", tmp_path / "bundle", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["towers"]["user"]["file"] == "user.onnx"
    assert (
        verify(tmp_path / "bundle").files == len(read_manifest(apart).files) - 3
    )  # without --items no vectors and index


def test_check_compares_the_towers(apart: Path) -> None:
    limits = Limits(overrides={"latency": None, "load time": None, "peak memory": None})
    findings = {finding.gate for finding in check(apart, apart, limits).findings}
    assert {"signature of user.onnx", "signature of item.onnx"} <= findings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: pl.concat([rows, rows.head(1)]), "more than once: the ids of items must be unique"),
        (lambda rows: rows.drop("price"), "has no column 'price'"),
        (lambda rows: rows.with_columns(item=pl.when(pl.col("price") > 20).then("item")), "have no id in 'item'"),
    ],
)
def test_items_that_do_not_fit_are_refused(bundle: Path, items: Path, tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    change(pl.read_parquet(items)).write_parquet(tmp_path / "items.parquet")
    done = invoke("split", bundle, "--items", tmp_path / "items.parquet", "--no-index", "-o", tmp_path / "new")
    assert_refused(done, 3, words)
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_no_pair_of_towers_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 1))
    from recprune_export.pipeline import compress_program
    from recprune_export.program.capture import capture
    from recprune_export.settings import Settings

    settings = Settings(sparsity=0.3, epochs=0, latency_batch_sizes=(1,), quick=True)
    target = compress_program(capture(module, (torch.arange(4),)), tmp_path / "bundle", settings).target
    done = invoke("split", target)
    assert_refused(done, 4, "reads 'input' alone, so the model does not have two towers")


def test_recall_is_measured_for_the_users_of_a_file(
    bundle: Path, items: Path, clicks_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    pl.read_parquet(clicks_file).select("user").unique().head(30).write_parquet(tmp_path / "users.parquet")
    options = ("--items", items, "--users", tmp_path / "users.parquet", "--top-k", 5)
    done = invoke("split", bundle, *options, "-o", tmp_path / "new", "--json")
    assert done.exit_code == 0, done.stderr
    index = json.loads(done.stdout)["towers"]["index"]
    assert (index["queries"], index["k"]) == (30, 5)


def test_a_packed_bundle_needs_a_directory(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    assert invoke("pack", bundle, "-o", tmp_path / "packed.tar.zst").exit_code == 0
    assert_refused(invoke("split", tmp_path / "packed.tar.zst"), 2, "is packed: give the directory")
    done = invoke("split", tmp_path / "packed.tar.zst", "-o", tmp_path / "new")
    assert done.exit_code == 0, done.stderr
    assert verify(tmp_path / "new").files == len(read_manifest(bundle).files) + 10  # two models, their samples


@pytest.mark.parametrize("options", [("--id", "item"), ("--no-index",)])
def test_options_of_items_need_items(bundle: Path, options: tuple[str, ...]) -> None:
    assert_refused(invoke("split", bundle, *options), 2, "is used only with --items")


def test_a_signed_bundle_loses_its_signature(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "manifest.json.sig").write_bytes(bytes(64))
    done = invoke("split", tmp_path / "bundle")
    assert done.exit_code == 0, done.stderr
    assert "The new bundle is not signed" in done.stderr
    assert not (tmp_path / "bundle" / "manifest.json.sig").exists()


@pytest.mark.slow
def test_users_without_a_finite_vector_are_refused_and_odd_ids_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from recprune_export.pipeline import compress_program
    from recprune_export.program.capture import capture
    from recprune_export.settings import Settings

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(9, 16), nn.Embedding(9, 16)

        def forward(self, user: torch.Tensor, age: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            return ((self.users(user) + age[:, None]) * self.items(item)).sum(1)

    torch.manual_seed(0)
    program = capture(Pair(), (torch.arange(4), torch.rand(4), torch.arange(4)))
    bundle = compress_program(program, tmp_path / "bundle", Settings(sparsity=0.3, epochs=0, quick=True)).target
    pl.DataFrame({"item": [1, 2, 50, 51]}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user": [1, 2], "age": [0.5, None]}).write_parquet(tmp_path / "users.parquet")
    options = ("--items", tmp_path / "items.parquet", "-o", tmp_path / "new")
    assert_refused(
        invoke("split", bundle, *options, "--users", tmp_path / "users.parquet"), 3,
        "users.parquet have no finite vector, the first is row 1",
    )  # fmt: skip
    done = invoke("split", bundle, *options)
    assert "2 values of 'item' are empty, out of range or unknown" in done.stderr
    again = invoke("split", tmp_path / "new")
    assert "items.npy, item_ids.npy, items.faiss are left out" in again.stderr
    assert not any("are left out: give --items" in note for note in read_manifest(tmp_path / "new").notes)
