"""Models in half precision, and under autocast: the work is in float32."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export import compress
from recprune_export.program.capture import capture
from recprune_export.program.capture._capture import program_from_exported

DTYPES = (torch.bfloat16, torch.float16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 8)
        self.top = nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.top(torch.cat([self.table(ids), x], 1)).squeeze(1)


class Autocast(Net):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=self.dtype):
            return super().forward(ids, x)


class Casts(Net):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        h = torch.cat([self.table(ids), x], 1).to(self.dtype)
        return torch.relu(nn.functional.linear(h, self.top[0].weight.to(self.dtype))).float().sum(1)


def make(kind: str, dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    request = (torch.arange(8), torch.randn(8, 3))
    if kind == "weights":
        return Net().to(dtype).eval(), (request[0], request[1].to(dtype))
    return (Autocast if kind == "autocast" else Casts)(dtype).eval(), request


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["weights", "autocast", "casts"])
def test_the_program_computes_in_float32_and_says_so(kind: str, dtype: torch.dtype) -> None:
    module, request = make(kind, dtype)
    program = capture(module, request)
    values = [node.meta["val"] for node in program.module.graph.nodes if node.op not in ("output", "get_attr")]
    assert {value.dtype for value in values if isinstance(value, Tensor)} <= {torch.float32, torch.int64}
    assert {p.dtype for p in program.parameters().values()} == {torch.float32}
    assert [i.dtype for i in program.signature.inputs] == ["int64", "float32"]
    note = program.notes[0]
    assert ("autocast" if kind == "autocast" else str(dtype).removeprefix("torch.")) in note
    assert "float32" in note
    actual = program({"ids": request[0], "x": request[1].float()})["output"]
    assert torch.allclose(actual, module(*request).float(), atol=0.03)
    exact = Net.forward(module.float(), request[0], request[1].float()) if kind != "casts" else actual
    assert torch.allclose(actual, exact, atol=1e-6)
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_the_weights_of_the_user_stay_in_half_precision() -> None:
    module, request = make("weights", torch.bfloat16)
    capture(module, request)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["weights", "autocast"])
def test_an_exported_program_in_half_precision_gets_a_bundle(kind: str, tmp_path) -> None:
    module, request = make(kind, torch.bfloat16)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(module, request, dynamic_shapes=({0: batch}, {0: batch}))
    assert "float32" in program_from_exported(exported).notes[0]
    result = compress(exported, None, tmp_path / "b", epochs=0, quick=True, structured_fraction=0.8)
    assert result.parity.passed
    assert any("use float32" in note for note in result.notes)
    assert result.manifest.signature["outputs"][0]["dtype"] == "float32"


class Inside(Net):
    """Autocast inside of another block: without gradients, or switched off in it."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.block = block

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        if self.block == "no_grad":
            with torch.no_grad():
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    answer = super().forward(ids, x)
                return answer.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.top[0](torch.cat([self.table(ids), x], 1))
            with torch.autocast("cpu", enabled=False):
                return self.top[2](self.top[1](hidden.float())).squeeze(1)


@pytest.mark.parametrize("block", ["no_grad", "autocast"])
def test_autocast_inside_of_another_block(block: str) -> None:
    torch.manual_seed(0)
    module, ids, x = Inside(block).eval(), torch.arange(8), torch.randn(8, 3)
    program = capture(module, (ids, x))
    assert "under autocast at" in program.notes[0]
    assert torch.allclose(program({"ids": ids, "x": x})["output"], Net.forward(module, ids, x), atol=1e-6)


def test_half_tables_alone_change_no_answer() -> None:
    class Tables(Net):
        def forward(self, ids: Tensor, x: Tensor) -> Tensor:
            return self.top(torch.cat([self.table(ids).float(), x], 1)).squeeze(1)

    module = Tables().eval()
    module.table.half()
    assert "do not differ here" in capture(module, (torch.arange(8), torch.randn(8, 3))).notes[0]
