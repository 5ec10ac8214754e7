"""A program that is said to give finite values gives them; every other one is not said to."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.finetuning.finite_operators import gives_finite_values
from recprune_export.program import sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.program.recorder import record_values
from recprune_export.recommenders import RECOMMENDERS
from tests.recommenders.test_recommenders import make, spec_of


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_values_of_a_recommender_are_finite_where_its_operators_say_so(name: str) -> None:
    program = capture(make(name), (spec_of(name).example_request(),))
    assert gives_finite_values(program) == (name not in ("mmoe", "sasrec"))  # softmax and attention
    tensors = sample_request_tensors(program.signature, 50, seed=0)
    request = dict(zip((i.name for i in program.signature.inputs), tensors, strict=True))
    computed = [node.name for node in program.module.graph.nodes if node.op == "call_function"]
    values = record_values(program, request, computed)
    assert all(value.isfinite().all() for value in values.values() if isinstance(value, Tensor))


class Step(nn.Module):
    """A linear layer, and one step on its output."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.layer, self.step = nn.Linear(3, 2), step
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        eps = {"norm without eps": 0.0, "norm with an eps of 0 in float32": 1e-46}.get(step, 1e-5)
        self.norm = nn.LayerNorm(2, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3] -> [B, 2]."""
        y: Tensor = self.layer(x)
        steps = {
            "mask": lambda: y + self.mask,
            "number": lambda: y * float("inf"),
            "norm": lambda: self.norm(y),
            "norm without eps": lambda: self.norm(y),
            "norm with an eps of 0 in float32": lambda: self.norm(y),
            "quotient": lambda: y / 3,
            "quotient of values": lambda: y / y.sum(1, keepdim=True),
            "quotient of clamped values": lambda: y / y.sum(1, keepdim=True).clamp_min(0.5),
            "quotient of values clamped to 0": lambda: y / y.sum(1, keepdim=True).clamp_min(0.0),
            "quotient of values clamped to 0 in float32": lambda: y / y.sum(1, keepdim=True).clamp_min(1e-46),
            "quotient by 0 in float32": lambda: y / 1e-46,
            "half precision": lambda: y.half().float(),
            "root": lambda: y.sqrt(),
        }
        return steps[self.step]()


@pytest.mark.parametrize(
    ("step", "finite"),
    [
        ("mask", False),
        ("number", False),
        ("norm", True),
        ("norm without eps", False),
        ("quotient", True),
        ("quotient of values", False),
        ("quotient of clamped values", True),
        ("quotient of values clamped to 0", False),
        ("quotient of values clamped to 0 in float32", False),
        ("quotient by 0 in float32", False),
        ("norm with an eps of 0 in float32", False),
        ("half precision", True),  # it becomes float32
        ("root", False),
    ],
)
def test_a_step_that_may_give_nan_is_not_finite(step: str, finite: bool) -> None:
    assert gives_finite_values(capture(Step(step).eval(), (torch.randn(4, 3),))) == finite
