"""Planned bits follow the weights of a program into its file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from recprune_export.onnx import OnnxFile, ServingConfig, export_onnx
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.stored_bits import StoredBits, count_weight_bytes
from tests.onnx.models import program

ROWS = (30, 40, 50, 60, 70, 80, 90, 100, 110)
SMALL_BATCHES = ServingConfig(batches=(1, 32))  # for which fusion pays in a model of this size
Request = dict[str, Tensor]


class Fields(nn.Module):
    """Nine fields of one width, a first-order table for one of them, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(rows, 6) for rows in ROWS)
        self.linear = nn.Embedding(ROWS[0], 1)
        self.first, self.last = nn.Linear(6 * len(ROWS), 16), nn.Linear(16, 1)

    def forward(self, request: Request) -> Request:
        looked_up = [table(request[f"f{number}"]) for number, table in enumerate(self.fields)]
        deep = self.last(torch.relu(self.first(torch.cat(looked_up, 1)))).squeeze(-1)
        return {"y": deep + self.linear(request["f0"]).squeeze(-1)}


@pytest.fixture(scope="module")
def fields() -> Program:
    torch.manual_seed(0)
    return capture(Fields().eval(), ({f"f{number}": torch.arange(4) for number in range(len(ROWS))},))


def shapes(file: OnnxFile) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in onnx.load(file.path).graph.initializer}


def test_tables_of_different_bits_are_not_fused(fields: Program, tmp_path: Path) -> None:
    tables = {f"fields.{number}.weight": (8, 4)[number % 2] for number in range(len(ROWS))}
    file = export_onnx(
        fields, tmp_path / "m.onnx", serving=SMALL_BATCHES, bits=StoredBits(tables, {"last.weight": 32}, other_layers=8)
    )
    found = shapes(file)
    assert file.bits is not None
    assert {found[name]: bits for name, bits in file.bits.tables.items()} == {
        (sum(ROWS[0::2]), 6): 8,
        (sum(ROWS[1::2]), 6): 4,
    }
    by_shape = {found[name]: bits for name, bits in file.bits.layers.items()}
    assert {shape: bits for shape, bits in by_shape.items() if 54 in shape} in ({(16, 54): 8}, {(54, 16): 8})
    assert {bits for shape, bits in by_shape.items() if 54 not in shape} == {32}
    assert file.bits.other_layers == 8


def test_bits_that_are_stored_in_as_many_bytes_are_the_same(fields: Program, tmp_path: Path) -> None:
    tables = {f"fields.{number}.weight": (4, 3)[number % 2] for number in range(len(ROWS))}
    file = export_onnx(fields, tmp_path / "m.onnx", serving=SMALL_BATCHES, bits=StoredBits(tables))
    assert file.bits is not None
    ((name, bits),) = file.bits.tables.items()
    assert bits == 4  # 3 bits of 6 dimensions take the bytes of 4
    planned = sum(count_weight_bytes((rows, 6), (4, 3)[number % 2], is_table=True) for number, rows in enumerate(ROWS))
    assert count_weight_bytes(shapes(file)[name], 4, is_table=True) == planned  # type: ignore[arg-type]


def test_without_bits_the_file_is_as_before(fields: Program, tmp_path: Path) -> None:
    plain, planned = (
        export_onnx(fields, tmp_path / f"{name}.onnx", bits=bits) for name, bits in (("p", None), ("b", StoredBits()))
    )
    assert plain.bits is None
    assert plain.path.read_bytes() == planned.path.read_bytes()


def test_a_table_with_few_bits_is_not_merged_with_another_of_the_same_ids(fields: Program, tmp_path: Path) -> None:
    file = export_onnx(
        fields, tmp_path / "m.onnx", serving=SMALL_BATCHES, bits=StoredBits({"linear.weight": 8, "fields.0.weight": 4})
    )
    assert file.bits is not None
    found = shapes(file)
    assert {found[name]: bits for name, bits in file.bits.tables.items() if bits < 32} == {(30, 1): 8, (30, 6): 4}


def test_a_layer_that_is_transposed_keeps_its_bits(tmp_path: Path) -> None:
    attention = program("attention")
    bits = StoredBits({"items.weight": 4}, {"query.weight": 4, "key.weight": 8}, other_layers=32)
    file = export_onnx(attention, tmp_path / "m.onnx", bits=bits)
    assert file.bits is not None
    assert list(file.bits.tables.values()) == [4]
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(file.path).graph.initializer}
    parameters = attention.parameters()
    for name, wanted in (("query.weight", 4), ("key.weight", 8), ("value.weight", 32)):
        matrix = parameters[name].detach().numpy()
        (stored,) = [
            key
            for key, array in arrays.items()
            if array.shape == matrix.shape and abs(np.corrcoef(array.ravel(), matrix.T.ravel())[0, 1]) > 0.999
        ]
        assert file.bits.get_layer(stored) == wanted
