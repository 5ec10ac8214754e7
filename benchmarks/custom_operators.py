"""Operators without a written channel rule: some carry channels, and some only seem to.

Each is registered with `torch.library.custom_op`, as a user's library would do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

Function = Callable[..., Any]


@dataclass(frozen=True)
class CustomOperator:
    """An operator, its operands' shapes as functions of (fields, width) with the batch first, and whether it carries channels."""

    name: str
    function: Function
    carries: bool
    operands: int = 1  # the value under test, and learned vectors of its width

    def register(self) -> Any:
        """Return the operator, registered once for each process."""
        return _register(self)


@cache
def _register(operator: CustomOperator) -> Any:
    if operator.operands == 1:

        def unary(x: Tensor) -> Tensor:
            return operator.function(x).clone()  # type: ignore[no-any-return]

        implementation: Function = unary
    else:

        def binary(x: Tensor, y: Tensor) -> Tensor:
            return operator.function(x, y).clone()  # type: ignore[no-any-return]

        implementation = binary
    name = "recprune_custom::" + operator.name.replace(" ", "_").replace("-", "_")
    registered = torch.library.custom_op(name, implementation, mutates_args=())

    def shape(*operands: Tensor) -> Tensor:
        return torch.empty_like(operator.function(*operands))

    registered.register_fake(shape)
    return registered


def _scaled_by_global_maximum(x: Tensor) -> Tensor:
    scale = x.abs().amax().clamp_min(1e-12) / 127
    return (x / scale).round() * scale


def _where_any(condition: Callable[[Tensor], Tensor]) -> Function:
    return lambda x: torch.where(condition(x), 2 * x, x)


CARRYING = (
    CustomOperator("squash", lambda x: x / (1 + x.abs()), True),
    CustomOperator("shrink to zero", lambda x: torch.where(x.abs() < 0.1, torch.zeros_like(x), x), True),
    CustomOperator("round", torch.round, True),
    CustomOperator("affine", lambda x, y: x * y + 1, True, operands=2),
    CustomOperator("gate", lambda x, y: x * (y > 0), True, operands=2),
    CustomOperator("total of fields", lambda x: x.cumsum(1)[:, -1:], True),
    CustomOperator("fields reversed", lambda x: x.flip(1), True),
    CustomOperator("channels first", lambda x: x.transpose(1, 2), True),
    CustomOperator("largest field", lambda x: x.amax(1), True),
    CustomOperator("fields sorted", lambda x: x.sort(1).values, True),
    CustomOperator("two more axes", lambda x: x[:, None, :, None], True),
)
ADVERSARIAL = (
    CustomOperator("channels reversed", lambda x: x.flip(-1), False),
    CustomOperator("channels sorted", lambda x: x.sort(-1).values, False),
    CustomOperator("running total", lambda x: x.cumsum(-1), False),
    CustomOperator("normalized", lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12), False),
    CustomOperator("mean removed", lambda x: x - x.mean(-1, keepdim=True), False),
    CustomOperator("mean times zero", lambda x: x + 0.0 * x.sum(-1, keepdim=True), False),
    CustomOperator("rounded to a common scale", _scaled_by_global_maximum, False),
    CustomOperator("largest only", lambda x: x * (x == x.amax(-1, keepdim=True)), False),
    CustomOperator("divided by the width", lambda x: x / x.shape[-1], False),
    CustomOperator("odd widths", lambda x: x * (1 + x.shape[-1] % 2), False),
    CustomOperator("wide only", lambda x: x * (2.0 if x.shape[-1] > 5 else 1.0), False),
    CustomOperator("every second channel", lambda x: x * (torch.arange(x.shape[-1]) % 2), False),
    CustomOperator("if one is large", _where_any(lambda x: (x > 1e8).any()), False),
    CustomOperator("if one is tiny", _where_any(lambda x: (x.abs() < 1e-20).any()), False),
    CustomOperator("if one is NaN", _where_any(lambda x: x.isnan().any()), False),
    CustomOperator("if the sum is positive", _where_any(lambda x: x.sum() > 0), False),
    CustomOperator("if two are equal", _where_any(lambda x: (x.flatten().sort().values.diff() == 0).any()), False),
    CustomOperator("if the mean is large", _where_any(lambda x: x.mean() > 0.5), False),
    CustomOperator("if most are positive", _where_any(lambda x: (x > 0).double().mean() > 0.5), False),
    CustomOperator("if the norm is large", _where_any(lambda x: x.norm() > 1e5), False),
    CustomOperator("if one is infinite", _where_any(lambda x: x.isinf().any()), False),
    CustomOperator("neighbors mixed", lambda x: x + 1e-12 * x.roll(1, -1), False),
    CustomOperator("noise", lambda x: x + torch.rand_like(x) * 1e-9, False),
    CustomOperator("position of a channel", lambda x: x + torch.arange(x.shape[-1]) / math.pi, False),
    CustomOperator("offset by the first", lambda x: x + x[..., :1], False),
)
OPERATORS = (*CARRYING, *ADVERSARIAL)


class TowerOfOperator(nn.Module):
    """x: B×F×4 → linear: B×F×D → the operator → linear over all that is left of a row."""

    def __init__(self, operator: CustomOperator, fields: int, width: int) -> None:
        super().__init__()
        self._operator = operator
        self.first, self.gain = nn.Linear(4, width), nn.Parameter(torch.ones(width))
        self.last = nn.Linear(self._call(torch.zeros(2, fields, width)).flatten(1).shape[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._call(self.first(x)).flatten(1))  # type: ignore[no-any-return]

    def _call(self, x: Tensor) -> Tensor:
        operands = (x, self.gain)[: self._operator.operands]
        return self._operator.register()(*operands)  # type: ignore[no-any-return]
