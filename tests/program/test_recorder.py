"""Recorded values equal those of the program, and no others are recorded."""

import torch
from torch import Tensor, fx, nn

from recprune_export.program import Program, ValueRecorder, record_values
from recprune_export.program.capture import capture

REQUEST = {"x": torch.arange(12.0).reshape(4, 3)}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())  # type: ignore[no-any-return]


def layers() -> tuple[Program, list[str]]:
    """The program, and the names of its operators in order: linear, relu, linear."""
    program = capture(Layers(), (torch.zeros(2, 3),))
    return program, [n.name for n in program.module.graph.nodes if n.op == "call_function"]


def test_values_and_answers_are_those_of_the_program() -> None:
    program, (first, relu, _) = layers()
    recording = ValueRecorder(program, [relu, first])(REQUEST)
    p = program.parameters()
    hidden = nn.functional.linear(REQUEST["x"], p["first.weight"], p["first.bias"])
    assert list(recording.values) == [first, relu]
    torch.testing.assert_close(recording.values[first], hidden, rtol=0.0, atol=0.0)
    torch.testing.assert_close(recording.values[relu], hidden.relu(), rtol=0.0, atol=0.0)
    assert recording.answers.keys() == program(REQUEST).keys()
    assert all(torch.equal(value, program(REQUEST)[name]) for name, value in recording.answers.items())
    assert not recording.values[relu].requires_grad


def test_without_names_every_node_is_recorded() -> None:
    program, _ = layers()
    assert list(ValueRecorder(program)(REQUEST).values) == [n.name for n in program.module.graph.nodes]


def test_no_node_runs_after_the_last_recorded_one() -> None:
    program, (first, relu, _) = layers()
    ran: list[str] = []

    def record_shape(node: fx.Node, value: Tensor) -> tuple[int, ...]:
        ran.append(node.name)
        return tuple(value.shape)

    recording = ValueRecorder(program, [first, relu], summarize=record_shape, stop_early=True)(REQUEST)
    assert ran == [first, relu]
    assert recording.values == {first: (4, 5), relu: (4, 5)}
    assert not recording.answers
    assert record_values(program, REQUEST, [first]).keys() == {first}


def test_gradients_reach_values_that_depend_on_frozen_weights_alone() -> None:
    program, (first, relu, _) = layers()
    program.parameters()["first.weight"].requires_grad_(False)
    program.parameters()["first.bias"].requires_grad_(False)
    recording = ValueRecorder(program, [first, relu], keep_gradients=True)(REQUEST)
    (answer,) = recording.answers.values()
    slopes = torch.autograd.grad(answer.sum(), list(recording.values.values()))
    expected = program.parameters()["last.weight"].sum(0).expand(4, 5)
    torch.testing.assert_close(slopes[1], expected)
    torch.testing.assert_close(slopes[0], expected * (recording.values[first] > 0))
