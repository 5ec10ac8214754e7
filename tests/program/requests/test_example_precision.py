"""Example requests in another precision than the weights: converted, said, and answered as PyTorch answers."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, given, settings
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from recprune_export.program.requests.example_precision import match_precision

HALF = (torch.float16, torch.bfloat16)


class Net(nn.Module):
    def __init__(self, width: int = 3, *, normalized: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 8)
        self.top = nn.Sequential(
            nn.Linear(8 + width, 16), nn.LayerNorm(16) if normalized else nn.ReLU(), nn.Linear(16, 1)
        )

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.top(torch.cat([self.table(ids), x], 1)).squeeze(1)


class OfDict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["ids"], batch["x"])


@settings(max_examples=12, phases=[Phase.generate])
@given(
    width=st.integers(1, 5),
    normalized=st.booleans(),
    weights=st.sampled_from([*HALF, torch.float32]),
    numbers=st.sampled_from([torch.float32, torch.float64]),
    of_dict=st.booleans(),
)
def test_any_precision_of_the_request_is_answered_in_float32(
    width: int, normalized: bool, weights: torch.dtype, numbers: torch.dtype, of_dict: bool
) -> None:
    torch.manual_seed(0)
    module = (OfDict if of_dict else Net)(width, normalized=normalized).to(weights).eval()
    ids, x = torch.arange(6), torch.randn(6, width)
    program = capture(module, ({"ids": ids, "x": x.to(numbers)},) if of_dict else (ids, x.to(numbers)))
    assert [i.dtype for i in program.signature.inputs] == ["int64", "float32"]
    assert {p.dtype for p in module.parameters()} == {weights}
    with torch.no_grad():
        expected = Net.forward(module.float(), ids, x)
    (output,) = program(dict(zip([i.name for i in program.signature.inputs], (ids, x), strict=True))).values()
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.02)  # bfloat16 of the request: three digits
    said = " ".join(program.notes)
    assert ("they are converted" in said) == (weights != numbers)
    assert ("the job and the file use float32" in said) == (weights in HALF)


class WithoutHalf(Net):
    """A layer that has no form in half precision, like several operators on CPU."""

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        if self.table.weight.dtype in HALF:
            raise RuntimeError("\"mystery\" not implemented for 'Half'")
        return super().forward(ids, x)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_model_that_does_not_run_in_half_precision_is_copied(dtype: torch.dtype) -> None:
    module = WithoutHalf().to(dtype).eval()
    program = capture(module, (torch.arange(6), torch.randn(6, 3)))
    assert "a float32 copy is used" in " ".join(program.notes)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert {p.dtype for p in program.parameters().values()} == {torch.float32}


class Broken(Net):
    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return super().forward(ids, x[:, :1])


def test_another_fault_of_the_model_is_still_told() -> None:
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(CaptureError, match="The model fails on the example request"):
            capture(Broken().to(dtype), (torch.arange(6), torch.randn(6, 3, dtype=torch.float64)))


def test_a_request_of_the_right_precision_is_not_run_for_it() -> None:
    module = Net().eval()
    calls: list[None] = []
    module.register_forward_hook(lambda *_: calls.append(None))
    request = (torch.arange(6), torch.randn(6, 3))
    assert match_precision(module, request, {}).args is request
    assert not calls
