"""Vocabularies that a user names become the encoding of a model of any kind; what cannot be one is refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import read_manifest, verify
from recprune_export.derived.raw_inputs import (
    MISSING_INTEGER,
    RAW_MODEL,
    RawIds,
    plan_of_vocabularies,
    read_vocabularies,
)
from recprune_export.errors import DataError, UsageError
from recprune_export.onnx.runtime import make_session, run
from recprune_export.program import BATCH, Input, Signature
from recprune_export.settings import Settings
from tests.jobs import QUICK_OPTIONS, assert_refused, invoke

USER = Input("user", "int64", (BATCH,), ((0, 9),), bad_ids=(3,))
REFUSING = Input("shop", "int64", (BATCH,), ((0, 9),), bad_ids=("error",))
SIGNATURE = Signature(
    (
        USER,
        REFUSING,
        Input("age", "float32", (BATCH,)),
        Input("fields", "int64", (BATCH, 2), ((0, 9), (0, 4))),
        Input("tags", "int32", (BATCH, 4), ((0, 9),), bad_ids=(0,)),
    ),
    (),
)


def write(folder: Path, raw: list[Any], ids: list[Any], name: str = "v.parquet") -> Path:
    frame = pl.DataFrame({"raw": raw, "id": ids}, strict=False)
    frame.write_parquet(folder / name) if name.endswith("parquet") else frame.write_csv(folder / name)
    return folder / name


def plan(path: Path, name: str = "user") -> RawIds:
    (part,) = plan_of_vocabularies(read_vocabularies({name: path}, SIGNATURE), SIGNATURE)
    assert isinstance(part, RawIds)
    return part


@pytest.mark.parametrize("name", ["v.csv", "v.parquet"])
def test_values_are_read_by_their_canonical_text(tmp_path: Path, name: str) -> None:
    part = plan(write(tmp_path, [7.0, 12.0, 2.0], [1, 2, 9], name))
    assert (part.dtype, part.keys, part.ids, part.unknown) == ("int64", (7, 12, 2), (1, 2, 9), 3)
    values = np.array([12, 7, 8, MISSING_INTEGER])
    assert part.encode({"user": values}).tolist() == [2, 1, 3, 3]


def test_a_missing_value_may_have_an_id_of_its_own(tmp_path: Path) -> None:
    part = plan(write(tmp_path, ["a", None, "b"], [1, 0, 1]), "tags")
    assert part.encode({"tags": np.array([["b", "", "c", "a"]])}).tolist() == [[1, 0, 0, 1]]
    assert part.encode({"tags": np.array([["b"]])}).dtype == np.int32


def test_an_unknown_value_is_refused_where_bad_ids_are(tmp_path: Path) -> None:
    part = plan(write(tmp_path, ["a", "b"], [1, 2]), "shop")
    assert part.encode({"shop": np.array(["a", "new"])}).tolist() == [1, 10]
    assert part.odd_keys == ()
    assert part.decode(np.array([2, 5]))["shop"].tolist() == ["b", "a"]


@pytest.mark.parametrize(
    ("raw", "ids", "said"),
    [
        (["a", "b", "a"], [1, 2, 3], r"has 'a' twice, the second time in row 2"),
        (["12", "12.0"], [1, 2], r"has '12' twice.*row 1 \(12, 12.0 and '12.0' are the same value\)"),
        (["a", "b"], [1, 10], r"gives 'b' the id 10 in row 1, but the ids of 'user' are 0 to 9"),
        (["a", None], [1, -1], r"gives a missing value the id -1 in row 1"),
        (["a", "b"], [1, None], r"gives 'b' no id in row 1"),
        (["a"], [1.5], r"The column 'id' .* holds Float64: a vocabulary has one integer"),
        (["a"], ["x"], r"The column 'id' .* holds String"),
        ([["a"]], [1], r"The column 'raw' .* holds List\(String\): a vocabulary has one value"),
        ([None], [1], r"has no value"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_vocabulary_of_the_input_is_refused(
    tmp_path: Path, raw: list[Any], ids: list[Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        plan(write(tmp_path, raw, ids))


def test_columns_that_are_absent_are_named(tmp_path: Path) -> None:
    pl.DataFrame({"value": ["a"], "id": [1]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match="'raw'"):
        plan(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        plan(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("usr", "names 'usr', which is not an input of the model; choose from .*did you mean 'user'"),
        ("age", "names 'age', but it is not an input of ids"),
        ("fields", "names 'fields', but it is a matrix whose columns are fields"),
    ],
)
def test_an_input_that_has_no_vocabulary_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_vocabularies({name: write(tmp_path, ["a"], [1])}, SIGNATURE)


class TwoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.tags = nn.Embedding(20, 8), nn.Embedding(9, 8)
        self.top = nn.Sequential(nn.Linear(17, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user: torch.Tensor, tags: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        pooled = self.tags(tags).sum(1)
        return self.top(torch.cat([self.users(user), pooled, age[:, None]], 1))[:, 0]


def test_a_model_of_ones_own_takes_raw_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write(tmp_path, [f"u{n}" for n in range(1, 20)], list(range(1, 20)), "users.csv")
    write(tmp_path, list(range(100, 108)), list(range(1, 9)), "tags.parquet")
    request = {"user": torch.arange(4), "tags": torch.zeros(4, 3, dtype=torch.int64), "age": torch.randn(4)}
    vocabularies = (f"user={tmp_path / 'users.csv'}", f"tags={tmp_path / 'tags.parquet'}")
    settings = Settings(sparsity=0.3, epochs=0, latency_batch_sizes=(1, 8), quick=True)
    done = compress(TwoTables(), request, target=tmp_path / "b", settings=settings, vocabularies=vocabularies)
    inputs = read_manifest(done.target).models[RAW_MODEL]["signature"]["inputs"]
    assert [(i["name"], i["dtype"]) for i in inputs] == [("user", "str"), ("tags", "int64"), ("age", "float32")]
    age = np.array([0.5, -1.0], dtype=np.float32)
    raw = {"user": np.array(["u7", "new"]), "tags": np.array([[100, 107, 5], [101, MISSING_INTEGER, 101]]), "age": age}
    ids = {"user": np.array([7, 0]), "tags": np.array([[1, 8, 0], [2, 0, 2]]), "age": age}
    answers = [run(make_session(done.target / name, 1), r) for name, r in ((RAW_MODEL, raw), ("model.onnx", ids))]
    for name, values in answers[1].items():
        np.testing.assert_allclose(answers[0][name], values, rtol=1e-6)
    assert len(verify(done.target).outputs) == 2


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--raw-inputs", "--vocabulary", f"user={__file__}"], 2, "the checkpoint contains vocabularies"),
        (["--vocabulary", f"user={__file__}"], 2, "--vocabulary: the checkpoint"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_work(
    checkpoint: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    done = invoke("compress", checkpoint, "-o", tmp_path / "b", *options, *QUICK_OPTIONS)
    assert_refused(done, code, said)
    assert not (tmp_path / "b").exists()


def test_a_model_without_vocabularies_is_told_how_to_give_them(tmp_path: Path) -> None:
    request = {"user": torch.arange(4), "tags": torch.zeros(4, 3, dtype=torch.int64), "age": torch.randn(4)}
    for options, said in (
        ({"raw_inputs": True}, "--vocabulary INPUT=FILE, with the columns raw and id"),
        ({"vocabularies": ("user=",)}, "must be INPUT=FILE, got 'user='"),
        ({"vocabularies": ("user=a.csv", "user=b.csv")}, "names 'user' twice"),
    ):
        with pytest.raises(UsageError, match=said):
            compress(TwoTables(), request, target=tmp_path / "b", sparsity=0.3, epochs=0, **options)


def test_a_csv_file_without_rows_has_no_value(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("raw,id\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"v\.csv has no value"):
        read_vocabularies({"user": tmp_path / "v.csv"}, SIGNATURE)
