import errno
import io
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx import make_in_memory_session, mapped_tensors
from recprune_export.onnx.mapped_tensors import concatenate_tables, make_mapped_tensor, write_map
from recprune_export.onnx.optimizer.passes.deduplicate_initializers import deduplicate_initializers
from recprune_export.onnx.saving import save_onnx

ROWS, DIM = 1_000_000, 16


def make_graph(arrays: dict[str, np.ndarray]) -> tuple[ir.Graph, ir.Model]:
    """Return a graph that looks up the same ids in each array."""
    ids = ir.Value(name="ids", shape=ir.Shape(["batch"]), type=ir.TensorType(ir.DataType.INT64))
    tables = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    for table in tables:
        assert table.const_value is not None
        table.shape, table.type = ir.Shape(table.const_value.shape), ir.TensorType(table.const_value.dtype)
    nodes = [ir.node("Gather", [table, ids]) for table in tables]
    for node, (name, array) in zip(nodes, arrays.items(), strict=True):
        rows = node.outputs[0]
        rows.name, rows.type = f"{name}_rows", ir.TensorType(ir.DataType.FLOAT)
        rows.shape = ir.Shape(["batch", array.shape[1]])
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([ids], outputs, nodes=nodes, initializers=tables, opset_imports={"": 20}, name="lookups")
    return graph, ir.Model(graph, ir_version=10)


def read_own_memory() -> int:
    """Return the resident bytes of this process that are not pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("chunk", [1, 64, 1 << 24])
@pytest.mark.parametrize("axis", [0, 1])
def test_chunks_give_the_concatenation(axis: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(0)
    shapes = [(7, 3), (5, 3)] if axis == 0 else [(7, 3), (7, 2)]
    arrays = {f"t{n}": rng.normal(size=shape).astype(np.float32) for n, shape in enumerate(shapes)}
    graph, _ = make_graph(arrays)
    joined = concatenate_tables(graph, "t0", list(graph.initializers.values()), axis)
    assert joined.name == "t0_1"
    assert joined.const_value is not None
    np.testing.assert_array_equal(joined.const_value.numpy(), np.concatenate(list(arrays.values()), axis))


def test_content_is_made_once_at_its_first_use() -> None:
    calls = []

    def make_chunks() -> Iterator[np.ndarray]:
        calls.append(1)
        yield np.ones((2, 3), np.float32)

    tensor = make_mapped_tensor("t", ir.DataType.FLOAT, (2, 3), make_chunks)
    assert not calls
    assert tensor.numpy().sum() == tensor.numpy().sum() == 6
    assert tensor.tobytes() == np.ones((2, 3), np.float32).tobytes()
    assert len(calls) == 1


def test_content_is_in_memory_where_the_disk_of_temporary_files_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.BytesIO):
        def fileno(self) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mapped_tensors, "CHUNK_BYTES", 8)
    monkeypatch.setattr(tempfile, "TemporaryFile", FullDisk)
    chunks = [np.full((2, 3), n, np.float32) for n in range(3)]
    np.testing.assert_array_equal(write_map(np.dtype(np.float32), (6, 3), iter(chunks)), np.concatenate(chunks))


def test_a_long_table_is_joined_run_and_written_without_a_copy(tmp_path: Path) -> None:
    table = write_map(
        np.dtype(np.float32), (ROWS, DIM), (np.full((1000, DIM), n, np.float32) for n in range(ROWS // 1000))
    )
    graph, model = make_graph({"a": table})
    joined = concatenate_tables(graph, "joined", [graph.initializers["a"]] * 2, axis=0)
    graph[0].replace_input_with(0, joined)
    del graph.initializers["a"]
    before = read_own_memory()
    tracemalloc.start()  # sees the arrays of numpy and the bytes of Python, also those that are freed at once
    (rows,) = make_in_memory_session(model)([np.array([0, ROWS + 1000])])
    data = save_onnx(model, tmp_path / "model.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(peak, read_own_memory() - before) < table.nbytes / 2
    assert rows[:, 0].tolist() == [0.0, 1.0]
    assert data is not None
    assert data.stat().st_size == 2 * table.nbytes
    assert (tmp_path / "model.onnx").stat().st_size < 10_000


def test_equal_constants_become_one_and_others_stay() -> None:
    one = np.arange(1000, dtype=np.float32).reshape(100, 10)
    other = one.copy()
    other[-1, -1] = np.nan
    graph, model = make_graph({"a": one, "b": one.copy(), "c": other, "d": other.copy(), "e": one.reshape(10, 100)})
    deduplicate_initializers(model)
    assert list(graph.initializers) == ["a", "c", "e"]
    assert [node.inputs[0].name for node in graph] == ["a", "a", "c", "c", "e"]  # type: ignore[union-attr]
