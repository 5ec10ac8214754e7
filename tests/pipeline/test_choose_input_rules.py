"""The limit of numbers follows the rows and the model; ids out of range follow the option."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import ModelError
from recprune_export.pipeline.choose_input_rules import with_input_rules
from recprune_export.pipeline.compress import make_sampled_task
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.settings import FineTuningSettings


class Scorer(nn.Module):
    """A table and a number to some power, which may fill what is not finite."""

    def __init__(self, power: int = 1, fills: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.power, self.fills = nn.Embedding(9, 3), power, fills

    def forward(self, ids: Tensor, price: Tensor) -> Tensor:
        """Ids [B] and prices [B, 2] to scores [B]."""
        filled = torch.nan_to_num(price, posinf=1.0, neginf=-1.0) if self.fills else price
        return self.table(ids).sum(1) + (filled**self.power).sum(1)


def program(module: Scorer, bad_ids: str = "unknown") -> Program:
    captured = capture(module.eval(), (torch.arange(4), torch.randn(4, 2)))
    return with_input_rules(captured, make_sampled_task(captured, FineTuningSettings()), bad_ids)


@pytest.mark.parametrize(("module", "limit"), [(Scorer(), 1e12), (Scorer(power=5), 1e6), (Scorer(fills=True), None)])
def test_the_limit_keeps_answers_finite(module: Scorer, limit: float | None) -> None:
    ids, price = program(module).signature.inputs
    assert ids.number_limit is None
    assert ids.bad_ids == (0,)
    assert price.number_limit == limit
    if limit is not None:
        request = {"ids": torch.zeros(2, dtype=torch.int64), "price": torch.full((2, 2), limit)}
        assert all(bool(values.isfinite().all()) for values in program(module)(request).values())


def test_refused_ids() -> None:
    ids, _ = program(Scorer(), "error").signature.inputs
    assert ids.bad_ids == ("error",)


class Scaled(nn.Module):
    """A score over a number that is the same for the whole request."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, temperature: Tensor, ids: Tensor) -> Tensor:
        """A temperature [] and ids [B] to scores [B]."""
        return self.table(ids).sum(1) / temperature


def test_an_input_without_rows_is_named() -> None:
    captured = capture(Scaled().eval(), (torch.tensor(2.0), torch.arange(4)))
    with pytest.raises(ModelError, match=r"The input 'temperature' of shape \[\]"):
        with_input_rules(captured, make_sampled_task(captured, FineTuningSettings()), "unknown")


def test_numbers_of_the_rows_are_far_below_the_limit() -> None:
    from recprune_export.api import make_task
    from recprune_export.program.loading._load_program import LoadedModel
    from recprune_export.program.loading.model_kind import ModelKind

    captured = capture(Scorer().eval(), (torch.arange(4), torch.randn(4, 2)))
    rng = np.random.default_rng(0)
    price = rng.normal(size=(100, 2)).astype(np.float32)
    price[3, 1] = -2.5e5
    rows = {"ids": rng.integers(0, 9, 100), "price": price, "y": rng.integers(0, 2, 100)}
    task = make_task(LoadedModel(captured, None, ModelKind.MODULE), rows, "y")
    assert with_input_rules(captured, task, "unknown").signature.inputs[1].number_limit == 1e9


class Bucket(nn.Module):
    def __init__(self, clamps: bool) -> None:
        super().__init__()
        self.table, self.clamps = nn.Embedding(20, 3), clamps

    def forward(self, price: Tensor) -> Tensor:
        index = price.long()
        return self.table(index.clamp(0, 19) if self.clamps else index).sum(1)


def test_a_number_that_becomes_an_index_out_of_range_is_refused_with_the_line() -> None:
    def rules(clamps: bool) -> Program:
        captured = capture(Bucket(clamps).eval(), (torch.linspace(0, 19, 8),))
        return with_input_rules(captured, make_sampled_task(captured, FineTuningSettings()), "unknown")

    assert rules(True).signature.inputs
    # As a lookup by the number itself is known to be an id, the failing one is behind arithmetic.
    captured = capture(ScaledBucket().eval(), (torch.linspace(0, 1.9, 8),))
    with pytest.raises(ModelError, match=r"fails on numbers in 'price' .* line \d+ .*clamp\(0, rows - 1\)"):
        with_input_rules(captured, make_sampled_task(captured, FineTuningSettings()), "unknown")


class ScaledBucket(Bucket):
    def __init__(self) -> None:
        super().__init__(clamps=False)

    def forward(self, price: Tensor) -> Tensor:
        return super().forward(price * 10)
