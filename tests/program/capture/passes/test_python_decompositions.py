"""A custom operator with a decomposition is pruned, exported, and read from programs as the PyTorch operators that it stands for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import CaptureError, ExportError, ModelFileError
from recprune_export.inspection import inspect_program
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.onnx._translate import refuse_foreign_operators
from recprune_export.program import OPERATORS, Facet, decomposition_rule, load_program
from recprune_export.program.capture import capture
from tests.properties import check_any_plan, prunable

LIBRARY = "recprune_test"


def upper_pairs(x: Tensor) -> Tensor:
    """`x: B×F×D` to the inner products of all pairs, B×F(F-1)/2."""
    left, right = torch.triu_indices(x.shape[1], x.shape[1], 1).unbind()
    return (x[:, left] * x[:, right]).sum(-1)


@torch.library.custom_op(f"{LIBRARY}::pairs", mutates_args=())
def pairs(x: Tensor, scale: float = 1.0) -> Tensor:
    return upper_pairs(x) * scale


@pairs.register_fake
def _(x: Tensor, scale: float = 1.0) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] * (x.shape[1] - 1) // 2)


PAIRS = torch.ops.recprune_test.pairs.default


class PairModel(nn.Module):
    """The custom operator on three tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(9, 6) for _ in range(3))
        self.head = nn.Linear(3, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.stack([table(ids[:, i]) for i, table in enumerate(self.tables)], 1)
        return self.head(torch.ops.recprune_test.pairs(x, scale=0.5))


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.fixture(autouse=True)
def restore_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPERATORS, "_rules", {facet: dict(OPERATORS.rules(facet)) for facet in Facet})


def scaled_pairs(x: Tensor, scale: float = 1.0) -> Tensor:
    return upper_pairs(x) * scale


def pairs_by_constants(x: Tensor, scale: float = 1.0) -> Tensor:
    left, right = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    return (x[:, left] * x[:, right]).sum(-1) * scale


def pairs_with_the_batch(x: Tensor, scale: float = 1.0) -> Tensor:
    rows, fields, _ = x.shape
    products = torch.hstack([x[:, i : i + 1] * x[:, i + 1 :] for i in range(fields - 1)])
    return products.sum(-1).unsqueeze(1).reshape(rows, fields * (fields - 1) // 2) * scale


@pytest.mark.parametrize("function", [scaled_pairs, pairs_by_constants, pairs_with_the_batch])
def test_the_operands_can_be_pruned_and_the_file_answers_as_the_model(
    function: Callable[..., Tensor], tmp_path: Path
) -> None:
    decomposition_rule(PAIRS)(function)
    module = PairModel()
    program, analysis = check_any_plan(module, IDS)
    assert {(f"tables.{i}.weight", 1) for i in range(3)} <= prunable(analysis)
    file = export_onnx(program, tmp_path / "model.onnx")
    ids = torch.randint(9, (5, 3))
    found = run(make_session(file.path, 1), {"ids": ids.numpy()})
    np.testing.assert_allclose(found["output"], module(ids).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_reasons_name_the_line_of_the_model() -> None:
    decomposition_rule(PAIRS)(scaled_pairs)
    program = capture(PairModel(), (IDS,))
    lines = {node.meta.get("stack_trace", "") for node in program.module.graph.nodes if "mul" in str(node.target)}
    assert any("recprune_test.pairs" in line for line in lines)


def test_a_decomposition_with_other_results_is_refused() -> None:
    decomposition_rule(PAIRS)(lambda x, scale=1.0: upper_pairs(x))
    with pytest.raises(CaptureError):
        capture(PairModel(), (IDS,))


def test_a_decomposition_that_fails_is_named() -> None:
    @decomposition_rule(PAIRS)
    def pairs_without_scale(x: Tensor) -> Tensor:
        return upper_pairs(x)

    with pytest.raises(CaptureError, match=r"pairs_without_scale` of recprune_test\.pairs\.default .* fails: .*scale"):
        capture(PairModel(), (IDS,))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, scale: x, "returns a tensor of 3 axes"),
        (lambda x, scale: (upper_pairs(x), x), "returns tuple, not one tensor"),
        (lambda x, scale: torch.ops.recprune_test.pairs(x, scale), "calls the operator itself"),
        (lambda x, scale: 1.0, "returns float, not one tensor"),
    ],
)
def test_a_decomposition_with_another_kind_of_result_is_refused(function: Callable[..., object], message: str) -> None:
    decomposition_rule(PAIRS)(function)
    with pytest.raises(CaptureError, match=message):
        capture(PairModel(), (IDS,))


def test_a_second_decomposition_is_refused_with_the_place_of_the_first() -> None:
    decomposition_rule(PAIRS)(scaled_pairs)
    with pytest.raises(ValueError, match=r"`scaled_pairs`, .*test_python_decompositions\.py:\d+"):
        decomposition_rule(PAIRS)(pairs_by_constants)


def test_without_a_decomposition_the_operator_is_named_before_the_work() -> None:
    program = capture(PairModel(), (IDS,))
    with pytest.raises(ExportError, match=r"recprune_test::pairs .*register a decomposition or an ONNX translation"):
        refuse_foreign_operators(program)
    (note,) = [note for note in inspect_program(program, "model", "module").notes if "recprune_test" in note]
    assert "has no ONNX equivalent" in note


def test_a_saved_program_with_the_operator_is_read_if_it_has_a_rule(tmp_path: Path) -> None:
    module, path = PairModel().eval(), tmp_path / "program.pt2"
    shapes = ({0: torch.export.Dim("rows", min=2, max=4096)},)
    torch.export.save(torch.export.export(module, (IDS,), dynamic_shapes=shapes), path)
    with pytest.raises(ModelFileError, match="import the module that registers it and its rules first"):
        load_program(path)
    decomposition_rule(PAIRS)(scaled_pairs)
    program = load_program(path).program
    torch.testing.assert_close(program({"ids": IDS})["output"], module(IDS))
    assert inspect_program(program, "model", "program").groups
