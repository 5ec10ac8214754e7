"""Parity allows what float32 itself loses in a program, and no more."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import ValidationFailed
from recprune_export.finetuning import run_program
from recprune_export.onnx import export_onnx
from recprune_export.pipeline import export_models, make_sampled_task
from recprune_export.pipeline.float32_tolerance import MOST, MOST_IF_INFINITE, ROUNDED_RUNS, TWO_WAYS, widen_tolerances
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import Float64Interpreter
from recprune_export.settings import Settings
from recprune_export.validation import Tolerances
from recprune_export.validation.edge_requests import RequestArrays
from tests.properties import no_zeros


class Difference(nn.Module):
    """A score that is what is left of two large numbers: its last digits are rounded away, whoever adds them up."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size
        self.table = nn.Embedding(50, 8)
        self.one, self.other = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        large = self.size * self.one(x)
        return (large + self.other(x) - large).squeeze(1)


def program_of(size: float) -> Program:
    return capture(no_zeros(Difference(size)), (torch.arange(6),))


def asked(program: Program) -> tuple[RequestArrays, np.ndarray, np.ndarray]:
    """All ids, what the program answers in float32, and what it states."""
    ids = np.arange(50)
    (exact,) = Float64Interpreter(program)(torch.from_numpy(ids))
    return (
        {program.signature.inputs[0].name: ids},
        run_program(program, {program.signature.inputs[0].name: ids})["output"],
        exact.numpy(),
    )


def widened(size: float) -> Tolerances:
    program = program_of(size)
    request, rounded, _ = asked(program)
    return widen_tolerances(program, {"all": {"output": rounded}}, {"all": request}, Tolerances())


def test_what_rounds_well_is_held_to_what_is_stated() -> None:
    assert widened(1.0) == Tolerances()


def test_what_loses_digits_is_held_to_those_it_has() -> None:
    _, rounded, exact = asked(program_of(1e3))
    lost = float(np.abs(rounded - exact).max())
    found = widened(1e3)
    assert Tolerances().absolute < found.absolute < MOST * Tolerances().absolute
    allowed = found.allowed(exact)
    assert (allowed < 10 * TWO_WAYS * lost).all()
    assert lost < allowed.max()


def test_what_has_no_digits_left_is_held_to_what_is_stated() -> None:
    assert widened(1e6) == Tolerances()


def test_a_sum_that_pytorch_takes_without_an_error_by_chance_may_be_rounded_in_another_order() -> None:
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1e5, -1e5, 1.0]])  # in this order it is exact
    program = capture(layer, (torch.ones(2, 3),))
    (name,) = (i.name for i in program.signature.inputs)
    request = {name: np.ones((4, 3), dtype=np.float32)}
    rounded = run_program(program, request)
    in_another_order = (np.float32(1e5) * np.float32(1.0) + np.float32(0.3)) - np.float32(1e5)
    lost = abs(float(in_another_order) - 0.3)
    answers, requests = {"ones": rounded}, {"ones": request}
    assert widen_tolerances(program, answers, requests, Tolerances(), MOST_IF_INFINITE) == Tolerances()
    found = widen_tolerances(program, answers, requests, Tolerances(), MOST_IF_INFINITE, ROUNDED_RUNS)
    assert lost < found.allowed(np.array([1.0]))[0] < 1000 * lost


@pytest.mark.parametrize(("times", "passes"), [(2.0, True), (50.0, False)])
def test_a_file_that_is_off_by_rounding_passes_and_one_that_is_wrong_does_not(
    times: float, passes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = program_of(1e3)
    _, rounded, exact = asked(program)
    off = times * np.float32(np.abs(rounded - exact).max())
    file = export_onnx(program, tmp_path / "m.onnx", rewrites=())
    monkeypatch.setattr(
        export_models,
        "make_predictor",
        lambda file: lambda request: {"output": run_program(program, request)["output"] + off},
    )
    task = make_sampled_task(program, Settings().finetuning)
    if passes:
        report = export_models.validate_parity(program, file, task)
        assert report.passed
        assert report.tolerances.absolute > Tolerances().absolute
    else:
        with pytest.raises(ValidationFailed, match="does not reproduce the pruned model's outputs"):
            export_models.validate_parity(program, file, task)
