"""NaN and infinity in weights, rows and answers are found before the long work, and said where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recprune_export import api
from recprune_export.api import compress
from recprune_export.data import SchemaOverrides, infer_schema, load_clicks
from recprune_export.errors import DataError, ModelError, ModelFileError
from recprune_export.finetuning.profile_rows import make_data_profile
from recprune_export.pipeline import _prune as prune
from recprune_export.program.capture import capture


class Scorer(nn.Module):
    """A table, a number and, where it is asked for, the logarithm of that number."""

    def __init__(self, logarithm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.linear, self.logarithm = nn.Embedding(20, 4), nn.Linear(5, 1), logarithm

    def forward(self, ids: Tensor, price: Tensor) -> Tensor:
        """Ids [B] and prices [B, 1] to logits [B]."""
        number = price.log() if self.logarithm else price
        return self.linear(torch.cat([self.table(ids), number], 1)).squeeze(1)


EXAMPLE = (torch.arange(4), torch.ones(4, 1))
BATCH = torch.export.Dim("batch")


def rows(**changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    whole = {"ids": rng.integers(0, 20, 300), "price": rng.random((300, 1)).astype(np.float32) + 0.1}
    return {**whole, "clicked": (rng.random(300) < 0.5).astype(np.float32), **changes}


@pytest.fixture(autouse=True)
def no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "plan_pruning", lambda *a, **k: pytest.fail("the long work began"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["module", "exported", "program"])
def test_weights(tmp_path: Path, kind: str, value: float) -> None:
    module = Scorer().eval()
    with torch.no_grad():
        module.table.weight[3, 1] = value
    models = {
        "module": lambda: module,
        "exported": lambda: torch.export.export(module, EXAMPLE, dynamic_shapes=({0: BATCH}, {0: BATCH})),
        "program": lambda: capture(module, EXAMPLE),
    }
    with pytest.raises(ModelFileError, match=rf"table\S*weight' .* contains {value} at \[3, 1\]"):
        compress(models[kind](), EXAMPLE, tmp_path / "ctr")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("price", np.nan), ("price", np.inf), ("clicked", np.inf)])
def test_rows_for_a_model_of_ones_own(tmp_path: Path, name: str, value: float) -> None:
    """A label of NaN is a missing one."""
    values = rows()[name].copy()
    values[137] = value
    with pytest.raises(DataError, match=f"'{name}'"):
        compress(Scorer().eval(), EXAMPLE, tmp_path / "ctr", data=rows(**{name: values}), labels="clicked")


def test_answers(tmp_path: Path) -> None:
    odd = rows()["price"].copy()
    odd[::3] = -1.0
    with pytest.raises(ModelError, match=r"returns NaN in '\w+' for \d+ of \d+ rows"):
        compress(Scorer(logarithm=True).eval(), EXAMPLE, tmp_path / "ctr", data=rows(price=odd), labels="clicked")
    assert not list(tmp_path.iterdir())


def test_a_column_of_a_file(tmp_path: Path, clicks_file: Path) -> None:
    frame = pl.read_parquet(clicks_file)
    schema = infer_schema(clicks_file, SchemaOverrides(labels=("clicked",))).schema
    name = schema.numeric[0]
    odd = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 77).then(float("inf")).otherwise(pl.col(name)).alias(name)
    )
    odd.write_parquet(tmp_path / "odd.parquet")
    with pytest.raises(DataError, match=rf"'{name}' of .* contains infinity in 1 row:"):
        load_clicks(tmp_path / "odd.parquet", schema)
    missing = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 77).then(float("nan")).otherwise(pl.col(name)).alias(name)
    )
    missing.write_parquet(tmp_path / "missing.parquet")
    assert np.isfinite(load_clicks(tmp_path / "missing.parquet", schema).train.inputs["numeric"]).all()


def test_the_check_of_weights_takes_all_of_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from recprune_export.program.loading import _check_finite

    monkeypatch.setattr(_check_finite, "_CHUNK_SIZE", 7)
    module = Scorer().eval()
    with torch.no_grad():
        module.table.weight[19, 3] = float("nan")
    with pytest.raises(ModelFileError, match=r"at \[19, 3\]"):
        api.load_model(module, EXAMPLE, {})


def test_a_mask_of_minus_infinity_is_no_fault() -> None:
    module = Scorer().eval()
    module.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    assert api.load_model(module, EXAMPLE, {}).program.parameters()
    module.register_buffer("scale", torch.full((3,), float("nan")))
    with pytest.raises(ModelFileError, match=r"'scale' .* contains nan"):
        api.load_model(module, EXAMPLE, {})


class Filler(Scorer):
    """The same, which fills missing prices with 1."""

    def forward(self, ids: Tensor, price: Tensor) -> Tensor:
        """Ids [B] and prices [B, 1] to logits [B]."""
        return super().forward(ids, torch.where(price.isnan(), torch.ones(()), price))


def missing_prices(every: int = 7) -> dict[str, np.ndarray]:
    prices = rows()["price"].copy()
    prices[::every] = np.nan
    return rows(price=prices)


def test_nan_that_the_model_fills_is_taken() -> None:
    loaded = api.load_model(Filler().eval(), EXAMPLE, {})
    task = api.make_task(loaded, missing_prices(), "clicked")
    assert np.isnan(task.requests(300, seed=0)["price"]).any()
    with_nan = make_data_profile(task, loaded.program.signature)
    assert with_nan is not None
    assert all(np.isfinite(f.mean) for f in with_nan.fields if f.mean is not None)


def test_nan_that_the_model_answers_by_nan_is_refused_with_its_rows() -> None:
    loaded = api.load_model(Scorer().eval(), EXAMPLE, {})
    with pytest.raises(DataError, match=r"'price', column 0, in the data contains NaN in 43 rows, such as row 0: the model returns NaN"):  # fmt: skip  # noqa: E501
        api.make_task(loaded, missing_prices(), "clicked")
