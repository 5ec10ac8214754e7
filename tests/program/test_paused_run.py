"""A run that pauses gives the values of a whole run, with the weights of the moment, and keeps only what is read later."""

import torch
from torch import Tensor, nn

from recprune_export.program import Program, record_values
from recprune_export.program.capture import capture
from recprune_export.program.paused_run import PausedRun

REQUEST = {"x": torch.arange(12.0).reshape(4, 3) / 12}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.square, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.square(self.first(x).relu()).relu()
        return self.last(self.square(hidden).relu())  # type: ignore[no-any-return]


def layers() -> tuple[Program, list[str]]:
    """The program, and the names of its linear calls in order: first, square, square, last."""
    program = capture(Layers(), (torch.zeros(2, 3),))
    linear = [n.name for n in program.module.graph.nodes if n.target is torch.ops.aten.linear.default]
    return program, linear


def inputs_of_whole_run(program: Program, calls: list[str]) -> list[Tensor]:
    sources = {n.name: n.args[0].name for n in program.module.graph.nodes if n.name in calls}
    values = record_values(program, REQUEST, sources.values())
    return [values[sources[name]] for name in calls]


def test_inputs_follow_the_weights_that_were_changed_at_the_pause() -> None:
    program, (first, square, again, last) = layers()
    run = PausedRun(program, REQUEST)
    for calls, changed in (([first], "first.weight"), ([square, again], "square.weight"), ([last], "last.weight")):
        torch.testing.assert_close(run.call_inputs(calls), inputs_of_whole_run(program, calls), rtol=0.0, atol=0.0)
        with torch.no_grad():
            program.parameters()[changed].mul_(-1.5)


def test_an_output_is_kept_until_it_is_asked_for() -> None:
    program, calls = layers()
    first, square, again, last = calls
    run = PausedRun(program, REQUEST, calls)
    expected = record_values(program, REQUEST, calls)
    for asked in ([square, again], [first], [last]):
        torch.testing.assert_close(run.call_outputs(asked), [expected[name] for name in asked], rtol=0.0, atol=0.0)


def test_a_value_is_freed_after_its_last_reader() -> None:
    program, calls = layers()
    run = PausedRun(program, REQUEST, calls)
    run.call_outputs(calls[:-1])
    held = {node.name for node in run.env if node.op == "call_function"}
    assert held == {calls[-2]}
