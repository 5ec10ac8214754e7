"""Shapes after an edit are those that another export would give, and a graph that is wrong is refused as there."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from sympy import Symbol
from torch import Tensor, fx, nn
from torch._dynamo.exc import UserError

from recprune_export.program import BATCH, Input, Output, Program, Signature, sample_request_tensors
from recprune_export.program.canonical import canonicalize
from recprune_export.program.capture import capture
from recprune_export.program.program import export_with_symbolic_batch
from recprune_export.program.propagation import recapture
from recprune_export.pruning import (
    apply_plan,
    find_per_table_projections,
    insert_per_table_projections,
    insert_projections,
    plan_projections,
)
from recprune_export.recommenders import RECOMMENDERS
from tests.properties import half_plan
from tests.recommenders.test_recommenders import make, spec_of

aten = torch.ops.aten
SIGNATURE = Signature((Input("x", "float32", (BATCH, 4)),), (Output("y", "float32", (BATCH, 4)),))
WEIGHT = nn.Parameter(torch.arange(20.0).reshape(5, 4) + 1)

Write = Callable[[fx.Graph, fx.Node], fx.Node]


def described(module: fx.GraphModule) -> list[Any]:
    """The nodes in their order: name, operator, what it reads, shape and dtype."""

    def of(value: Any) -> Any:
        return (tuple(map(named, value.shape)), value.dtype) if isinstance(value, Tensor) else None

    def named(size: Any) -> str:
        expression = Symbol("b") * 0 + (size if isinstance(size, int) else size.node.expr)
        return str(expression.subs({symbol: Symbol("b") for symbol in expression.free_symbols}))

    *nodes, _ = module.graph.nodes
    return [
        (n.name, n.op, n.target, [source.name for source in n.all_input_nodes], pytree.tree_map(of, n.meta["val"]))
        for n in nodes
    ]


def exported(graph: fx.Graph, tensors: dict[str, Tensor], signature: Signature) -> fx.GraphModule:
    """What a graph is after it was traced once more."""
    again = export_with_symbolic_batch(
        fx.GraphModule(tensors, graph), sample_request_tensors(signature, batch=3), signature
    )
    module = again.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return canonicalize(module)


def assert_as_exported(program: Program) -> None:
    module = program.module
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    again = exported(copy.deepcopy(module.graph), tensors, program.signature)
    assert described(program.module) == described(again)


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_edits_of_a_recommender_have_the_shapes_that_an_export_gives(name: str) -> None:
    program = capture(make(name), (spec_of(name).example_request(),))
    analysis = program.analysis
    loose = insert_projections(program, plan_projections(program))
    spaced = insert_per_table_projections(loose, find_per_table_projections(loose))
    edits = {str(e.module.graph): e for e in (loose, spaced, apply_plan(program, half_plan(analysis)))}
    edits.pop(str(program.module.graph), None)  # nothing to loosen
    for edited in edits.values():
        assert_as_exported(edited)


def graph_of(write: Write) -> fx.Graph:
    graph = fx.Graph()
    graph.output((write(graph, graph.placeholder("x")),))
    return graph


def call(target: Any, *args: Any) -> Write:
    return lambda graph, x: graph.call_function(target, (x, *args))


def rows_of(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_function(aten.sym_size.int, (x, 0))


def transposed(target: Any, *args: Any) -> Write:
    return lambda graph, x: graph.call_function(target, (graph.call_function(aten.transpose.int, (x, 0, 1)), *args))


AWKWARD: dict[str, Write] = {
    "a view": call(aten.view.default, [-1, 2, 2]),
    "a view of all": call(aten.view.default, [-1]),
    "a view by a symbolic size": lambda g, x: g.call_function(aten.view.default, (x, [rows_of(g, x), 2, -1])),
    "a reshape that has to copy": transposed(aten.reshape.default, [-1]),
    "an expansion": lambda g, x: g.call_function(
        aten.expand.default, (g.call_function(aten.unsqueeze.default, (x, 1)), [-1, 3, -1])
    ),
    "an arange of the batch": lambda g, x: g.call_function(aten.arange.default, (rows_of(g, x),)),
    "arithmetic on sizes": lambda g, x: g.call_function(
        aten.new_zeros.default, (x, [g.call_function(operator.mul, (2, rows_of(g, x))), 4])
    ),
    "rows of a constant below": lambda g, x: g.call_function(aten.cat.default, ([x, g.get_attr("weight")],)),
    "padding": call(aten.constant_pad_nd.default, [1, 2]),
    "a layer": lambda g, x: g.call_function(aten.linear.default, (x, g.get_attr("weight"))),
    "the first rows": call(aten.slice.Tensor, 0, 0, 2),
    "a convolution, whose kernel is chosen by the batch": lambda g, x: g.call_function(
        aten.conv2d.default,
        (
            g.call_function(aten.view.default, (x, [-1, 1, 2, 2])),
            g.call_function(aten.view.default, (g.get_attr("weight"), [5, 1, 2, 2])),
        ),
    ),
    "an axis of the batch that is no axis of one": call(aten.squeeze.dims, [0]),
    "several outputs": lambda g, x: g.call_function(
        operator.getitem, (g.call_function(aten.split.Tensor, (x, 3, 1)), 1)
    ),
}


@pytest.mark.parametrize("write", AWKWARD.values(), ids=AWKWARD)
def test_an_awkward_graph_has_the_shapes_that_an_export_gives(write: Write) -> None:
    program = Program.from_graph(graph_of(write), {"weight": WEIGHT}, SIGNATURE)
    again = exported(graph_of(write), {"weight": WEIGHT}, SIGNATURE)
    assert [(target, value) for _, _, target, _, value in described(program.module)] == [
        (target, value) for _, _, target, _, value in described(again)
    ]
    (x,) = sample_request_tensors(SIGNATURE, batch=7)
    torch.testing.assert_close(program.module(x), again(x))


WRONG: dict[str, tuple[Write, type[Exception]]] = {
    "a layer of another width": (
        lambda g, x: g.call_function(
            aten.linear.default, (g.call_function(aten.slice.Tensor, (x, 1, 0, 3)), g.get_attr("weight"))
        ),
        RuntimeError,
    ),
    "a view that cannot be": (transposed(aten.view.default, [-1]), ValueError),
    "a view for three rows": (call(aten.view.default, [3, 4]), UserError),
    "three rows beside two": (call(aten.view.default, [2, 6]), UserError),
    "an expansion to three rows": (call(aten.expand.default, [3, 4]), UserError),
    "the third row": (call(aten.select.int, 0, 2), UserError),
    "the fourth row": (call(aten.select.int, 0, 3), IndexError),
    "a sum with five rows": (
        lambda g, x: g.call_function(aten.add.Tensor, (x, g.get_attr("weight"))),
        AssertionError,
    ),
    "ids that are no whole numbers": (
        lambda g, x: g.call_function(aten.embedding.default, (g.get_attr("weight"), x)),
        RuntimeError,
    ),
}


@pytest.mark.parametrize(("write", "error"), WRONG.values(), ids=WRONG)
def test_a_graph_that_is_wrong_is_refused_as_by_an_export(write: Write, error: type[Exception]) -> None:
    for attempt in (exported, Program.from_graph):
        with pytest.raises(error):
            attempt(graph_of(write), {"weight": WEIGHT}, SIGNATURE)


def test_what_one_graph_assumes_is_not_assumed_of_the_next() -> None:
    with pytest.raises(UserError):
        Program.from_graph(graph_of(call(aten.view.default, [3, 4])), {}, SIGNATURE)
    with pytest.raises(AssertionError):
        Program.from_graph(graph_of(call(aten.view.default, [5, 4])), {}, SIGNATURE)
    program = Program.from_graph(graph_of(call(aten.mul.Tensor, 2.0)), {}, SIGNATURE)
    (product,) = (node for node in program.module.graph.nodes if node.op == "call_function")
    assert not isinstance(product.meta["val"].shape[0], int)


def test_whoever_compares_sizes_of_one_graph_says_nothing_of_others() -> None:
    before, asked = (Program.from_graph(graph_of(call(aten.mul.Tensor, 2.0)), {}, SIGNATURE) for _ in range(2))
    rows = [node.meta["val"].shape[0] for node in asked.module.graph.nodes if node.op == "placeholder"]
    assert rows[0] == 3  # so says the example behind the symbol, which is fixed by that
    after = Program.from_graph(graph_of(call(aten.mul.Tensor, 2.0)), {}, SIGNATURE)
    for program in (before, after):
        (value,) = (node.meta["val"] for node in program.module.graph.nodes if node.op == "call_function")
        assert value.shape[0].node.expr.is_Symbol


@pytest.mark.parametrize("name", ["dlrm", "sasrec"])
def test_a_lifted_program_is_the_exported_one(name: str) -> None:
    program = capture(make(name), (spec_of(name).example_request(),))
    lifted, traced = program.lifted(), program.to_exported_program()
    one, other = ([(s.kind, s.target) for s in e.graph_signature.input_specs] for e in (lifted, traced))
    assert sorted(one, key=str) == sorted(other, key=str)
    assert lifted.state_dict.keys() == traced.state_dict.keys()
    request = sample_request_tensors(program.signature, batch=5)
    with torch.no_grad():
        torch.testing.assert_close(lifted.module()(*request), traced.module()(*request), rtol=0, atol=0)


class SumOfIds(nn.Module):
    """The sum of all numbers x: N, added to y: B."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x.sum()


def test_sizes_with_names_of_their_own_vary_apart() -> None:
    graph = fx.symbolic_trace(SumOfIds())
    again = recapture(graph, graph.graph, [(["ids_elements"], torch.float32), ([BATCH], torch.float32)])
    x, y = (node.meta["val"].shape[0] for node in again.graph.nodes if node.op == "placeholder")
    assert str(x) != str(y)


@pytest.mark.parametrize("operands", [["ids_elements", BATCH], [BATCH, "ids_elements"], ["a_elements", "b_elements"]])
def test_a_graph_that_equates_two_sizes_is_refused(operands: list[str]) -> None:
    class Added(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    graph = fx.symbolic_trace(Added())
    with pytest.raises((UserError, RuntimeError)):
        recapture(graph, graph.graph, [([size], torch.float32) for size in operands])


def test_constants_of_two_passes_keep_their_names_apart() -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("constant_add", torch.tensor([5.0]))
            self.register_buffer("other", torch.tensor([1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.constant_add + (self.other + 1.0)

    exported = torch.export.export(Constants(), (torch.ones(3),)).module(check_guards=False)
    assert isinstance(exported, fx.GraphModule)
    torch.testing.assert_close(canonicalize(exported)(torch.ones(3))[0], torch.full((3,), 7.0))
