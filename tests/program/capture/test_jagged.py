"""Requests whose rows have different numbers of elements, in any form, are captured and answered as the model does."""

from collections import UserDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.finetuning import run_program
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program import Program
from recprune_export.program.capture import capture, program_from_exported
from recprune_export.program.requests.jagged_inputs import (
    list_file_inputs,
    to_file_arrays,
)
from recprune_export.program.requests.random_requests import sample_request
from recprune_export.validation.edge_requests import make_edge_requests
from tests.program.capture.jagged_models import (
    BATCH,
    FORMS,
    IDS,
    OFFSETS,
    Checked,
    Model,
    Pair,
    by_lengths,
    by_lists,
    draw_ids,
)
from tests.program.read_file_arrays import read_file_arrays
from tests.properties import check_any_plan, prunable


@cache
def captured(form: str) -> Program:
    module, example, _ = FORMS[form]
    return capture(module, example)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_pruned_and_exported(form: str, tmp_path: Path) -> None:
    module, example, names = FORMS[form]
    program, analysis = check_any_plan(module, *example)
    assert ("table.weight", 1) in prunable(analysis)
    assert {i.name for i in list_file_inputs(program.signature)} == set(names)
    for spec in program.signature.inputs:
        if spec.jagged is not None and spec.jagged.present == spec.name:
            assert spec.ids == ((0, IDS - 1),)
    for width in (None, 9):
        signature = program.signature if width is None else program.signature.with_padded(width)
        served = program.with_signature(signature)
        session = make_session(export_onnx(served, tmp_path / f"{width}.onnx").path, 1)
        for label, request in make_edge_requests(signature).items():
            for name, expected in run_program(served, request).items():
                np.testing.assert_allclose(run(session, request)[name], expected, rtol=1e-5, atol=1e-5, err_msg=label)


@pytest.mark.parametrize("form", FORMS)
def test_the_file_takes_the_request_of_the_model(form: str, tmp_path: Path) -> None:
    module, example, names = FORMS[form]
    program = captured(form)
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    leaves = [leaf.numpy() for leaf in pytree.tree_leaves(example)]
    with torch.no_grad():
        expected = module(*example).numpy()
    np.testing.assert_allclose(run(session, dict(zip(names, leaves, strict=True)))["output"], expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_a_file_become_rows_again(form: str) -> None:
    signature = captured(form).signature
    for seed in range(3):
        arrays = to_file_arrays(signature, sample_request(signature, 5, seed))
        again = to_file_arrays(signature, read_file_arrays(signature, arrays))
        for name, values in arrays.items():
            np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_an_exported_program_with_a_dynamic_dimension_for_values() -> None:
    module, example = Model(by_lengths), (Checked(draw_ids(20), FORMS["a registered class"][1][0].lengths),)
    any_size = torch.export.Dim.DYNAMIC
    exported = torch.export.export(module.eval(), example, dynamic_shapes=(([{0: any_size}, {0: any_size}],),))
    program, direct = program_from_exported(exported), capture(module, example)
    assert [i.jagged and i.jagged.counts for i in program.signature.inputs] == [(0, 4)]
    request = sample_request(program.signature, 6, 0)
    named = dict(zip((i.name for i in direct.signature.inputs), request.values(), strict=True))
    np.testing.assert_allclose(run_program(program, request)["output"], run_program(direct, named)["output"], atol=1e-6)


def test_sorted_ids_are_no_offsets() -> None:
    class TwoTables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(IDS, 4), nn.Embedding(IDS, 4)

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return (self.user(user) * self.item(item)).sum(1)

    program = capture(TwoTables(), (torch.arange(BATCH), torch.arange(BATCH)))
    assert [(i.name, i.jagged) for i in program.signature.inputs] == [("user", None), ("item", None)]


def test_a_tensordict() -> None:
    tensordict = pytest.importorskip("tensordict", exc_type=Exception)

    def answer(table: nn.Module, request: Any) -> Tensor:
        return table(request["ids"]) + request["context", "numbers"]  # type: ignore[no-any-return]

    context = tensordict.TensorDict({"numbers": torch.randn(BATCH, 8)}, batch_size=[BATCH])
    request = tensordict.TensorDict({"ids": draw_ids(BATCH, 3), "context": context}, batch_size=[BATCH])
    program, analysis = check_any_plan(Model(answer), request)
    assert [(i.name, i.shape) for i in program.signature.inputs] == [("ids", ("batch", 3)), ("numbers", ("batch", 8))]
    assert ("top.0.weight", 0) in prunable(analysis)


def test_a_class_that_is_not_registered_is_named() -> None:
    class Hidden:
        def __init__(self, ids: Tensor) -> None:
            self.ids = ids

    with pytest.raises(CaptureError, match=r"contains a Hidden.*register it"):
        capture(Model(lambda table, request: table(request.ids)), (Hidden(draw_ids(BATCH, 3)),))


def test_a_mapping_of_tensors() -> None:
    class Encoding(UserDict[str, Any]):
        """As the BatchEncoding of Hugging Face's tokenizers."""

    def answer(table: nn.Module, request: Encoding) -> Tensor:
        return table(request["ids"]) + request["numbers"]  # type: ignore[no-any-return]

    program = capture(Model(answer), (Encoding(ids=draw_ids(BATCH, 3), numbers=torch.randn(BATCH, 8)),))
    assert [(i.name, i.shape) for i in program.signature.inputs] == [("ids", ("batch", 3)), ("numbers", ("batch", 8))]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (torch.nested.nested_tensor([draw_ids(2), draw_ids(3)]), r"a nested tensor.*to_padded_tensor"),
        (torch.eye(BATCH).to_sparse(), r"a sparse tensor.*EmbeddingBag"),
    ],
    ids=["nested", "sparse"],
)
def test_a_tensor_that_no_file_takes_is_named(request_: Tensor, reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        capture(Model(lambda table, request: table(request)), (request_,))


def test_a_nested_tensor_inside_is_named_with_its_line() -> None:
    def answer(table: nn.Module, ids: Tensor, offsets: Tensor) -> Tensor:
        rows = nn.functional.embedding(ids, table.weight)  # type: ignore[arg-type]
        return torch.nested.nested_tensor_from_jagged(rows, offsets).sum(dim=1)

    with pytest.raises(CaptureError, match=r"builds a nested tensor at .*test_jagged\.py, line \d+"):
        capture(Model(answer), (draw_ids(14), torch.cat([OFFSETS, torch.tensor([14])])))


def test_sizes_that_the_number_of_rows_says_are_none_of_the_values() -> None:
    """As a KeyedJaggedTensor that a model builds of a matrix of ids."""

    def answer(table: nn.Module, ids: Tensor) -> Tensor:
        rows = ids.shape[0]
        sizes = torch.ones(2 * rows, dtype=torch.int64).view(2, -1).sum(1).tolist()
        first, second = torch.split(ids.t().reshape(-1), sizes)
        return table(first, torch.arange(rows)) * table(second, torch.arange(rows))  # type: ignore[no-any-return]

    program, _ = check_any_plan(Model(answer), draw_ids(BATCH, 2))
    assert [(i.shape, i.ids) for i in program.signature.inputs] == [(("batch", 2), ((0, IDS - 1),))]


def test_a_size_that_the_request_states_is_named_with_its_line() -> None:
    class Items(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingBag(IDS, 4, mode="sum")

        def forward(self, ids: Checked) -> Tensor:
            longest = int(ids.lengths.max())
            offsets = torch.cumsum(ids.lengths, 0) - ids.lengths
            return self.table(ids.values, offsets) + torch.arange(longest).sum()

    with pytest.raises(CaptureError, match=r'a number from the request at .*test_jagged\.py", line \d+'):
        capture(Items(), (Checked(draw_ids(20), FORMS["a registered class"][1][0].lengths),))


def nest(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists, tuples, dicts and named tuples of requests."""
    return st.one_of(
        st.lists(leaf, min_size=1, max_size=2),
        st.tuples(leaf, leaf),
        st.dictionaries(st.sampled_from(["a", "b", "long_name"]), leaf, min_size=1, max_size=2),
        st.tuples(leaf, leaf).map(lambda pair: Pair(*pair)),
    )


@settings(max_examples=8)
@given(st.recursive(st.just("ids"), nest, max_leaves=4))
def test_any_nesting_of_tensors(shape: Any) -> None:
    request = pytree.tree_map(lambda _: draw_ids(BATCH, 3), shape)

    def answer(table: nn.Module, nested: Any) -> Tensor:
        return torch.stack([table(leaf) for leaf in pytree.tree_leaves(nested)]).sum(0)

    module = Model(answer)
    program = capture(module, (request,))
    tensors = [(leaf + 1) % IDS for leaf in pytree.tree_leaves(request)]
    assert len({i.name for i in program.signature.inputs}) == len(tensors)
    with torch.no_grad():
        expected = module(pytree.tree_unflatten(tensors, pytree.tree_structure(request)))
        actual = program(dict(zip((i.name for i in program.signature.inputs), tensors, strict=True)))["output"]
    torch.testing.assert_close(actual, expected)


@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(0, IDS - 1), max_size=6), min_size=1, max_size=9))
def test_any_rows_are_answered_as_the_model_does(rows: list[list[int]]) -> None:
    module, program = FORMS["a registered class"][0], captured("a registered class")
    lengths = torch.tensor([len(row) for row in rows])
    values = torch.tensor([number for row in rows for number in row], dtype=torch.int64)
    arrays = {"input_0_values": values.numpy(), "input_0_lengths": lengths.numpy()}
    with torch.no_grad():
        expected = module(Checked(values, lengths)).numpy()
    actual = run_program(program, read_file_arrays(program.signature, arrays))["output"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


class Tables(nn.Module):
    """A table for each list of ids, with offsets of its own."""

    def __init__(self, count: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList(nn.EmbeddingBag(IDS, 4, mode="sum") for _ in range(count))
        self.top = nn.Linear(4 * count, 1)

    def forward(self, offsets: Any, ids: Any, weights: Any = None) -> Tensor:
        if isinstance(ids, dict):
            offsets, ids = list(offsets.values()), list(ids.values())
        rows = [
            table(i, o, per_sample_weights=None if weights is None else weights[n])
            for n, (table, i, o) in enumerate(zip(self.tables, ids, offsets, strict=True))
        ]
        return self.top(torch.cat(rows, 1)).reshape(len(offsets[0]))  # len() fixes a size outside of strict mode


LENGTHS = [[2, 1, 3, 1, 2, 1], [1, 1, 2, 2, 3, 1], [3, 3, 1, 1, 1, 1], [1, 2, 1, 2, 1, 2], [2, 2, 1, 3, 1, 2]]


@pytest.mark.parametrize("container", ["list", "dict", "weights"])
@pytest.mark.parametrize("count", [2, 5])
def test_lists_of_as_many_ids(container: str, count: int) -> None:
    ends = [torch.tensor(lengths).cumsum(0) - torch.tensor(lengths) for lengths in LENGTHS[:count]]
    ids = [draw_ids(sum(lengths), seed=n) for n, lengths in enumerate(LENGTHS[:count])]
    example: tuple[Any, ...] = (ends, ids)
    if container == "dict":
        names = "abcde"[:count]
        example = (dict(zip(names, ends, strict=True)), dict(zip(names, ids, strict=True)))
    if container == "weights":
        example = (ends, ids, [torch.rand(len(i)) for i in ids])
    module = Tables(count).eval()
    program = capture(module, example)
    jagged = [i for i in program.signature.inputs if i.jagged is not None]
    assert [i.ids for i in jagged if i.dtype == "int64"] == [((0, IDS - 1),)] * count
    assert len(jagged) == count * (2 if container == "weights" else 1)


def test_the_common_name_of_elements_and_offsets_is_that_of_the_input() -> None:
    assert [i.name for i in captured("a search among offsets").signature.inputs] == ["genres"]


def test_stacked_indices_of_one_id_in_each_row(tmp_path: Path) -> None:
    """facebookresearch/dlrm stacks the offsets and, for Criteo, the indices: [keys, rows]."""
    module, example = Model(by_lists).eval(), (torch.arange(BATCH).repeat(3, 1), draw_ids(3, BATCH))
    program, _ = check_any_plan(module, *example)
    names = ["input_1_0", "input_1_1", "input_1_2"]
    assert [(i.name, i.shape, i.jagged) for i in program.signature.inputs] == [(n, ("batch",), None) for n in names]
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    ids = draw_ids(3, 5, seed=1)
    found = run(session, {name: column.numpy() for name, column in zip(names, ids, strict=True)})["output"]
    expected = module(torch.arange(5).repeat(3, 1), ids).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Repeats(nn.Module):
    def __init__(self, *, sized: bool, times: int = 1) -> None:
        super().__init__()
        self.table, self.sized, self.times = nn.Embedding(IDS, 4), sized, times

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        rows = torch.arange(lengths.size(0))
        size = values.size(0) if self.sized else None
        rows = torch.repeat_interleave(rows, self.times * lengths, output_size=size)
        values = values.repeat_interleave(self.times)
        return torch.zeros(lengths.size(0), 4).index_add(0, rows, self.table(values)).sum(1)


@pytest.mark.parametrize("sized", [True, False])
def test_rows_that_are_repeated_by_their_lengths(tmp_path: Path, *, sized: bool) -> None:
    example = (draw_ids(10), torch.tensor(LENGTHS[0]))
    module = Repeats(sized=sized).eval()
    program = capture(module, example)
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    request = sample_request(program.signature, 5, seed=0)
    np.testing.assert_allclose(run(session, request)["output"], run_program(program, request)["output"], atol=1e-5)


def test_repeats_by_other_numbers_than_the_lengths_are_refused() -> None:
    with pytest.raises(
        CaptureError, match=r'repeat_interleave at .*test_jagged.py", line \d+ .*output_size=values.size'
    ):
        capture(Repeats(sized=False, times=2).eval(), (draw_ids(10), torch.tensor(LENGTHS[0])))
