"""What candidates share is computed once, and the answers are the same."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from recprune_export.errors import ExportError, UsageError
from recprune_export.finetuning import run_program
from recprune_export.onnx import (
    ServingConfig,
    count_weights,
    estimate_file_cost,
    export_onnx,
    make_in_memory_session,
    make_session,
    run,
)
from recprune_export.onnx.optimizer import TOLERANCE, largest_relative_difference, share_inputs
from recprune_export.program import Program, sample_request
from recprune_export.program.capture import capture
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender
from recprune_export.validation import expand_shared_inputs, squeeze_shared_inputs
from tests.onnx.graphs import floats, graph, numbers, operators

U, V = floats(1, 4, seed=1), floats(5, 3, seed=2)  # what is shared, and what is not
TAKES = "g (float[batch, 4] u, float[batch, 3] v)"


def split(text: str, gives: str = "float[batch, 6] y", **weights: np.ndarray) -> ir.Model:
    """Share the first input; assert that the answers are the same."""
    model = graph(f"{TAKES} => ({gives}) {{ {text} }}", **weights)
    once = model.clone()
    share_inputs(once, [0])
    RemoveUnusedNodesPass()(once)
    whole, part = make_in_memory_session(model), make_in_memory_session(once)
    for rows in (1, 5):
        wanted = whole([np.repeat(U, rows, axis=0), V[:rows]])
        assert largest_relative_difference(wanted, part([U, V[:rows]])) <= TOLERANCE
    assert [next(iter(i.shape or ())) for i in once.graph.inputs] == [1, ir.SymbolicDim("batch")]
    return once


W, B = floats(6, 7, seed=3), floats(6, seed=4)


@pytest.mark.parametrize("order", ["u, v", "v, u"])
@pytest.mark.parametrize(
    ("layer", "weight"), [("y = Gemm<transB=1>(c, w, b)", W), ("p = MatMul(c, w) y = Add(p, b)", W.T.copy())]
)
def test_a_layer_of_both_is_two_layers(order: str, layer: str, weight: np.ndarray) -> None:
    once = split(f"c = Concat<axis=1>({order}) {layer}", w=weight, b=B)
    assert operators(once) == {"Gemm": 2}
    assert count_weights(once).rest.parameters == W.size + B.size


def test_a_layer_over_positions_is_two_layers() -> None:
    text = (
        "a = Reshape(u, two) b = Unsqueeze(v, one) d = Concat<axis=1>(b, b) e = Concat<axis=2>(a, d)"
        " p = MatMul(e, w) y = Add(p, b6)"
    )
    once = split(text, "float[batch, 2, 6] y", w=floats(5, 6), b6=B, one=numbers(1), two=numbers(-1, 2, 2))
    assert operators(once)["MatMul"] == 2
    assert operators(once)["Expand"] == 0


def test_what_broadcasts_needs_no_copy() -> None:
    once = split("a = MatMul(u, w) r = Relu(a) e = MatMul(v, z) y = Mul(r, e)", w=floats(4, 6), z=floats(3, 6))
    assert operators(once)["Expand"] == 0


def test_what_does_not_is_repeated_late() -> None:
    text = "a = MatMul(u, w) r = Relu(a) t = Tanh(r) y = Concat<axis=1>(t, v)"
    once = split(text, "float[batch, 9] y", w=floats(4, 6))
    (expand,) = [node for node in once.graph if node.op_type == "Expand"]
    assert expand.inputs[0].producer().op_type == "Tanh"


def test_an_output_that_is_shared_has_all_rows() -> None:
    split("y = MatMul(u, w)", w=floats(4, 6))


def test_rows_that_were_laid_end_to_end_are_told_apart() -> None:
    """[batch, 4] as [2·batch, 2] cannot be repeated row by row; it is computed for all."""
    text = "a = Reshape(u, flat) b = Reshape(v, ends) c = Concat<axis=0>(b, b, a) y = ReduceSum<keepdims=1>(c, zero)"
    gives = "float[1, 1] y"
    model = graph(f"{TAKES} => ({gives}) {{ {text.replace('flat', 'one_each').replace('ends', 'one_each')} }}",
                  one_each=numbers(-1, 1), zero=numbers(0))  # fmt: skip
    once = model.clone()
    share_inputs(once, [0])
    wanted = make_in_memory_session(model)([np.repeat(U, 5, axis=0), V])
    assert largest_relative_difference(wanted, make_in_memory_session(once)([U, V])) <= TOLERANCE


def test_sizes_read_from_what_is_shared_are_those_of_the_candidates() -> None:
    text = (
        "s = Shape<start=0, end=1>(u) z = Concat<axis=0>(s, six) o = ConstantOfShape(z) a = MatMul(v, w) y = Add(o, a)"
    )
    split(text, w=floats(3, 6), six=numbers(6))


def test_neighbours_are_joined_before_they_are_repeated() -> None:
    text = "a = Relu(u) b = Tanh(u) y = Concat<axis=1>(a, b, v)"
    assert operators(split(text, "float[batch, 11] y"))["Expand"] == 1


def test_a_history_is_encoded_once(tmp_path: Path) -> None:
    """Attention and all: what is left for each candidate is the layer that reads both sides."""
    program = two_sides()
    file = export_onnx(program, tmp_path / "model.onnx", serving=ServingConfig(shared=("history", "numbers")))
    each, more = (estimate_file_cost(file.path, rows).operations for rows in (1, 2))
    assert more - each == 6 * 8 + 8 * 1  # the candidate's columns of the first layer, and the second layer


def test_numbers_of_rows_are_not_shared() -> None:
    """A row writes to its own place, whose number is found by counting the rows of what is shared."""
    text = (
        "s = Shape<start=0, end=1>(u) n = Squeeze(s, zero) r = Range(null, n, step) i = Unsqueeze(r, one)"
        " c = Mul(i, nothing) j = Concat<axis=1>(i, c)"
        " a = ReduceSum<keepdims=0>(u, one) z = MatMul(v, w) y = ScatterND(z, j, a)"
    )
    constants = {
        "zero": numbers(0),
        "one": numbers(1),
        "null": np.array(0),
        "step": np.array(1),
        "nothing": np.array(0),
    }
    split(text, w=floats(3, 6), **constants)


class TwoSides(nn.Module):
    """A history and a user's numbers on one side, candidates on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.head = nn.Embedding(30, 6), nn.Sequential(nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 1))
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, dropout=0.0)

    def forward(self, history: Tensor, numbers: Tensor, candidate: Tensor) -> Tensor:
        user = self.encoder(self.items(history)).mean(1)
        return self.head(torch.cat([user, numbers, self.items(candidate)], 1)).squeeze(1)  # type: ignore[no-any-return]


def two_sides() -> Program:
    torch.manual_seed(0)
    example = torch.randint(0, 30, (4, 7)), torch.randn(4, 3), torch.randint(0, 30, (4,))
    return capture(TwoSides().eval(), example)


@pytest.mark.parametrize("shared", [("history", "numbers"), ("candidate",), ("numbers",)])
def test_a_program_with_shared_inputs(shared: tuple[str, ...], tmp_path: Path) -> None:
    program = two_sides()
    file = export_onnx(program, tmp_path / "model.onnx", serving=ServingConfig(shared=shared))
    assert [i.name for i in file.signature.inputs if i.shared] == list(shared)
    session = make_session(file.path, 1)
    for rows in (1, 6):
        request = squeeze_shared_inputs(sample_request(program.signature, rows, seed=rows), file.signature)
        whole = {
            name: torch.from_numpy(values) for name, values in expand_shared_inputs(request, file.signature).items()
        }
        (wanted,), (found,) = program(whole).values(), run(session, request).values()
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


CLICKS = InputSpec(
    categorical={"user": 40, "item": 30, "type": 5}, multi_valued={"tags": 9}, lengths={"tags": 4}, n_numeric=3,
    labels=("click", "buy"),
)  # fmt: skip
SMALL = {
    "dlrm": {"dim": 6, "hidden": (10, 8), "bottom": (7,)},
    "mmoe": {"dim": 4, "hidden": (10, 8), "experts": 3, "tower": 5},
}


@pytest.mark.parametrize("name", sorted(set(RECOMMENDERS) - {"sasrec"}))
def test_every_recommender_with_a_shared_user(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = CLICKS if name == "mmoe" else InputSpec(**{**vars(CLICKS), "labels": ("click",)})
    program = capture(
        build_recommender(name, spec, SMALL.get(name, {"dim": 6, "hidden": (10, 8)})).eval(), (spec.example_request(),)
    )
    file = export_onnx(program, tmp_path / "model.onnx", serving=ServingConfig(shared=("user", "tags")))
    request = squeeze_shared_inputs(sample_request(program.signature, 6, seed=1), file.signature)
    whole = {name: torch.from_numpy(values) for name, values in expand_shared_inputs(request, file.signature).items()}
    answers = run(make_session(file.path, 1), request)
    for output, wanted in program(whole).items():
        np.testing.assert_allclose(answers[output], wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


class Standardised(nn.Module):
    """Numbers relative to those of the other rows."""

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return item.sum(1) + user.sum(1) / user.sum(0).sum()


def test_rows_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    program = capture(Standardised(), (torch.rand(4, 3), torch.rand(4, 3)))
    with pytest.raises(ExportError, match="user shared"):
        export_onnx(program, tmp_path / "model.onnx", serving=ServingConfig(shared=("user",)))


def test_names_that_are_no_inputs_are_refused() -> None:
    signature = two_sides().signature
    with pytest.raises(UsageError, match="'usr'"):
        signature.with_shared(["usr"])
    with pytest.raises(UsageError, match="every input"):
        signature.with_shared(["history", "numbers", "candidate"])


class Tagged(nn.Module):
    """A user, and items with any number of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.tag = nn.Embedding(9, 6), nn.EmbeddingBag(9, 6, mode="sum")
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 1)

    def forward(self, tags: Tensor, offsets: Tensor, user: Tensor) -> Tensor:
        both = torch.cat([self.tag(tags, offsets), self.user(user)], 1)
        return self.last(torch.relu(self.first(both)))  # type: ignore[no-any-return]


def test_a_user_beside_items_with_any_number_of_tags(tmp_path: Path) -> None:
    example = (torch.randint(9, (7,)), torch.tensor([0, 2, 3, 6]), torch.randint(9, (4,)))
    program = capture(Tagged().eval(), example)
    file = export_onnx(program, tmp_path / "model.onnx", serving=ServingConfig(shared=("user",)))
    for rows in (1, 6):
        request = squeeze_shared_inputs(sample_request(program.signature, rows, seed=1), file.signature)
        whole = expand_shared_inputs(request, file.signature)
        answers = run(make_session(file.path, 1), request)
        np.testing.assert_allclose(answers["output"], run_program(program, whole)["output"], rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="'tags', whose rows have different numbers of elements"):
        program.signature.with_shared(["tags"])
