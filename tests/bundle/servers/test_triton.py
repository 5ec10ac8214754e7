"""The repository is one that Triton reads, and says of the model what is so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from recprune_export.bundle import HardLink
from recprune_export.bundle.servers import ServerFiles, make_model_name, make_model_repository, rows_are_independent
from recprune_export.bundle.servers.readme import render_readme
from recprune_export.bundle.servers.triton import render_config
from recprune_export.onnx import SessionOptions, make_session, run
from recprune_export.program import BATCH, Input, Output, Signature
from recprune_export.program.requests.jagged_inputs import make_file_signature, to_file_arrays
from recprune_export.program.signature import OFFSETS, Jagged
from tests.bundle.complete import SIGNATURE, answer, request, write
from tests.bundle.pbtxt import numpy_dtype, parse


def made(signature: Signature = SIGNATURE, max_batch: int = 64, **options: Any) -> Any:
    rows = {i.name: np.zeros([1 if n == BATCH else n for n in i.shape], i.dtype) for i in signature.inputs}
    return parse(render_config("ctr", signature, rows, options=SessionOptions(**options), max_batch=max_batch))


def model_shape(tensor: Any, batched: bool) -> list[int]:
    """What the model gets of a tensor, by the rules of Triton: batch first, then `reshape` or else `dims`."""
    inner = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
    return [-1, *inner] if batched else inner


@pytest.mark.parametrize("max_batch", [0, 1, 64])
def test_names_types_and_dims_are_the_signatures(max_batch: int) -> None:
    found = made(max_batch=max_batch)
    for told, tensor in zip([*found.input, *found.output], [*SIGNATURE.inputs, *SIGNATURE.outputs], strict=True):
        assert (told.name, numpy_dtype(told.data_type)) == (tensor.name, tensor.dtype)
        assert len(told.dims) >= 1, "Triton refuses a tensor without dims"
        assert model_shape(told, bool(max_batch)) == [-1 if n == BATCH else n for n in tensor.shape]
    assert found.max_batch_size == max_batch
    assert found.HasField("dynamic_batching") == bool(max_batch)
    assert {sample.batch_size for sample in found.model_warmup} <= {1, 32}
    assert [group.kind for group in found.instance_group] == [2]


def test_what_has_no_batch_first_is_not_batched() -> None:
    shared = Signature(
        (Input("user", "int64", (1,), shared=True), Input("item", "int32", (BATCH,))),
        (Output("y", "float32", (BATCH,)), Output("all", "float64", (f"12*{BATCH}",)), Output("n", "bool", ())),
    )
    found = made(shared, max_batch=0)
    assert [list(t.dims) for t in (*found.input, *found.output)] == [[1], [-1], [-1], [-1], [1]]
    assert [list(t.reshape.shape) for t in found.output if t.HasField("reshape")] == [[]]
    assert not rows_are_independent(shared, answer, request(), answer(request()))


@pytest.mark.parametrize("padded", [False, True])
def test_elements_of_rows_are_batched_as_matrices_alone(*, padded: bool) -> None:
    jagged = Jagged((0, 3), "tags", "values", "offsets", form=OFFSETS, padded=padded)
    tags = Input("tags", "int64", (BATCH, 3), ((0, 9),), jagged=jagged)
    signature = Signature((tags,), (Output("y", "float32", (BATCH,)),))

    def count(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": (part["tags"] >= 0).sum(1).astype(np.float32)}

    asked = {"tags": np.array([[1, 2, -1], [-1, -1, -1], [4, 5, 6], [7, -1, -1]])}
    independent = rows_are_independent(signature, count, asked, count(asked))
    assert independent == padded
    arrays = to_file_arrays(signature, asked)
    files = make_model_repository(
        "ctr", make_file_signature(signature), arrays, ["model.onnx"], options=SessionOptions(),
        max_batch=64 if independent else 0,
    )  # fmt: skip
    config = files["triton/ctr/config.pbtxt"]
    assert isinstance(config, bytes)
    assert parse(config.decode()).max_batch_size == (64 if padded else 0)
    readme = render_readme(
        "ctr",
        signature.to_dict(),
        SessionOptions(),
        scores={},
        encoding=None,
        servers=ServerFiles(files, 64 if padded else 0),
    )
    assert ("each request separately" in readme, "--padded N" in readme) == (not padded, not padded)


def test_rows_that_know_of_each_other_are_not_batched() -> None:
    asked = request()
    assert rows_are_independent(SIGNATURE, answer, asked, answer(asked))

    def centred(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": answer(part)["y"] - answer(part)["y"].mean()}

    assert not rows_are_independent(SIGNATURE, centred, asked, centred(asked))
    kept = make_model_repository("ctr", SIGNATURE, asked, ["model.onnx"], options=SessionOptions(), max_batch=0)
    text = kept["triton/ctr/config.pbtxt"]
    assert isinstance(text, bytes)
    assert parse(text.decode()).max_batch_size == 0


def test_session_options_are_passed_on() -> None:
    told = {p.key: p.value.string_value for p in made(threads=3, arena=False).parameters}
    assert (told["intra_op_thread_count"], told["enable_mem_arena"]) == ("3", "0")
    assert "enable_mem_arena" not in {p.key for p in made().parameters}


@pytest.mark.parametrize("name", ['a"b', "ü\n", "back\\slash"])
def test_odd_names_of_tensors_survive(name: str) -> None:
    odd = Signature((Input(name, "int64", (BATCH,)),), (Output("y", "float32", (BATCH,)),))
    found = made(odd)
    assert found.input[0].name == name
    assert [entry.key for entry in found.model_warmup[0].inputs] == [name]


def test_the_parser_of_these_tests_refuses_what_is_no_config() -> None:
    for wrong in ("max_batch_sizes: 3", "input { data_type: TYPE_FLOAT }", "max_batch_size: many"):
        with pytest.raises(text_format.ParseError):
            parse(wrong)


def test_the_model_is_there_once_and_the_row_to_warm_up_with_is_one(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    folder = bundle / "triton/sum"
    assert (folder / "1/model.onnx").samefile(bundle / "model.onnx")
    assert not (folder / "1/model.onnx").is_symlink()
    found = parse((folder / "config.pbtxt").read_text())
    row = {}
    for entry in found.model_warmup[0].inputs:
        raw = np.frombuffer(
            (folder / "warmup" / entry.value.input_data_file).read_bytes(), numpy_dtype(entry.value.data_type)
        )
        assert raw.size == np.prod(entry.value.dims)
        tensor = next(t for t in found.input if t.name == entry.key)
        row[entry.key] = raw.reshape([1 if n == -1 else n for n in model_shape(tensor, batched=True)])
    warm = run(make_session(folder / "1/model.onnx", 1), row)
    np.testing.assert_allclose(warm["y"], answer(request())["y"][:1], rtol=1e-6)


def test_a_weights_file_beside_the_model_comes_along() -> None:
    models = ["model.onnx", "model.onnx.data"]
    made = make_model_repository("a b", SIGNATURE, request(), models, options=SessionOptions(), max_batch=8)
    assert {n: c.name for n, c in made.items() if isinstance(c, HardLink)} == {f"triton/a_b/1/{m}": m for m in models}
    assert make_model_name("...") == "model"
