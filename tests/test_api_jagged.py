"""The main job on requests whose rows have different numbers of ids, with rows on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recprune_export.api import compress, load_model, make_task
from recprune_export.bundle import verify
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import Settings
from tests.jobs import QUICK, invoke

TABLES, IDS, NUMBERS = 2, 80, 3


class Dlrm(nn.Module):
    """Tables by stacked offsets and a list of indices, as in facebookresearch/dlrm."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(IDS, 8, mode="sum") for _ in range(TABLES))
        self.top = nn.Sequential(nn.Linear(8 * TABLES + NUMBERS, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense: Tensor, offsets: Tensor, indices: list[Tensor]) -> Tensor:
        pooled = [t(i, o) for t, i, o in zip(self.tables, indices, offsets, strict=True)]
        return self.top(torch.cat([dense, *pooled], 1))  # type: ignore[no-any-return]


EXAMPLE = (
    torch.randn(4, NUMBERS),
    torch.tensor([[0, 2, 3, 3], [0, 1, 2, 3]]),
    [torch.tensor([1, 5, 9, 7]), torch.tensor([3, 2, 1, 0])],
)


def make_rows(count: int = 400, longest: int = 4) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    lists = {
        f"indices_{t}": [rng.integers(0, IDS, rng.integers(0, longest + 1)).tolist() for _ in range(count)]
        for t in range(TABLES)
    }
    numbers = {f"dense_{n}": rng.normal(size=count) for n in range(NUMBERS)}
    return pl.DataFrame({**lists, **numbers, "clicked": rng.integers(0, 2, count)})


def test_a_bundle_takes_the_request_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    make_rows().write_parquet(tmp_path / "rows.parquet")
    result = compress(Dlrm(), EXAMPLE, tmp_path / "b", data=tmp_path / "rows.parquet", labels="clicked", settings=QUICK)
    assert result.parity.passed
    assert result.reduction.removed.tables > 0
    assert verify(tmp_path / "b").rows == 16
    session = onnxruntime.InferenceSession(tmp_path / "b/model.onnx")
    assert {i.name: i.shape for i in session.get_inputs()} == {
        "dense": ["batch", NUMBERS],
        "indices_0": ["indices_0_elements"],
        "indices_1": ["indices_1_elements"],
        "offsets": [TABLES, "batch"],
    }
    with np.load(tmp_path / "b/samples/inputs.npz") as samples:
        (answer,) = session.run(None, dict(samples))
    assert answer.shape == (16, 1)
    readme = (tmp_path / "b/README.md").read_text()
    assert (
        "`offsets` contains the position of the first element of each row of `indices_0`, `indices_1`, on axis 0."
        in readme
    )
    scores = tmp_path / "scores.csv"
    done = invoke("predict", tmp_path / "b", "--data", tmp_path / "rows.parquet", "-o", scores)
    assert done.exit_code == 0, done.stderr
    assert pl.read_csv(scores).height == 400


def test_a_padded_file_takes_a_matrix_for_each_table(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = compress(Dlrm(), EXAMPLE, tmp_path / "b", settings=QUICK.with_options(epochs=0), padded=6)
    assert result.parity.passed
    session = onnxruntime.InferenceSession(tmp_path / "b/model.onnx")
    assert {i.name: i.shape for i in session.get_inputs()} == {
        "dense": ["batch", NUMBERS],
        "indices_0": ["batch", 6],
        "indices_1": ["batch", 6],
    }
    program = load_model(tmp_path / "b" / "model.pt2", None, {}).program
    rows = {"dense": np.zeros((1, NUMBERS), dtype=np.float32)}
    ids = np.array([[4, 9, -1, -1, -1, -1]])
    (answer,) = session.run(None, {**rows, "indices_0": ids, "indices_1": ids[:, ::-1].copy()})
    expected = program(
        {"dense": torch.zeros(1, NUMBERS), "indices_0": torch.from_numpy(ids), "indices_1": torch.from_numpy(ids)}
    )
    np.testing.assert_allclose(answer, expected["output"].detach().numpy(), atol=1e-5)


def read(rows: Any, **options: Any) -> Any:
    settings = Settings(**options)
    return make_task(load_model(Dlrm(), EXAMPLE, {}, settings.export), rows, "clicked", settings)


def test_rows_that_do_not_fit_are_refused() -> None:
    rows = make_rows(60)
    with pytest.raises(DataError, match=r"'indices_1' in .* contains the id 80"):
        read(rows.with_columns(indices_1=pl.lit([80])))
    with pytest.raises(DataError, match=r"more than 2 elements in .*: set --padded"):
        read(rows, padded=2)
    with pytest.raises(DataError, match="has no list in row 0"):
        read(rows.with_columns(indices_0=pl.lit(None, dtype=pl.List(pl.Int64))))


def test_options_that_do_not_fit_are_refused() -> None:
    signature = load_model(Dlrm(), EXAMPLE, {}).program.signature
    with pytest.raises(UsageError, match="'indices_0', whose rows have different numbers of elements"):
        signature.with_shared(["indices_0"])
    plain = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 1))
    with pytest.raises(UsageError, match="--padded: every input"):
        load_model(plain, torch.arange(5), {}, Settings(padded=3).export)
    with pytest.raises(UsageError, match="--padded must be"):
        Settings(padded=0)
