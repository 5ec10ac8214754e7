"""Lines of the user's code stay on the nodes where a program is captured again."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recprune_export.program.capture import program_from_exported
from recprune_export.program.nodes import find_source_line


@dataclass
class Request:
    ids: Tensor
    numbers: Tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(50, 8), nn.Linear(9, 1)

    def forward(self, request: Request) -> Tensor:
        rows = torch.cat([self.table(request.ids), request.numbers], 1)
        return torch.relu(self.top(rows))


def test_lines_of_a_program_whose_request_is_a_class() -> None:
    torch.export.register_dataclass(Request, serialized_type_name="tests.source_lines.Request")
    module, batch = Net().eval(), torch.export.Dim("batch")
    example = (Request(torch.arange(7), torch.ones(7, 1)),)
    exported = torch.export.export(module, example, dynamic_shapes=[[{0: batch}, {0: batch}]])
    program = program_from_exported(exported)
    lines = {node.name: find_source_line(node) for node in program.module.graph.nodes if node.op == "call_function"}
    first = Net.forward.__code__.co_firstlineno
    assert lines == {
        "embedding": f'"{__file__}", line {first + 1}', "cat": f'"{__file__}", line {first + 1}',
        "linear": f'"{__file__}", line {first + 2}', "relu": f'"{__file__}", line {first + 2}',
    }  # fmt: skip
    request = {"ids": torch.arange(3), "numbers": torch.ones(3, 1)}
    torch.testing.assert_close(next(iter(program(request).values())), module(Request(**request)))
