"""Layers have one scale for all outputs where that does not make the answers worse."""

import numpy as np
import pytest

from recprune_export.quantization.formats.arithmetic import quantize_with_one_scale
from recprune_export.quantization.quality_loss import QualityLoss
from recprune_export.quantization.quantization_plan import (
    FP32,
    INT8_DYNAMIC,
    INT8_ONE_SCALE,
    INT8_STATIC,
    WIDER_FORM,
    QuantizationPlan,
    WeightChoice,
)
from recprune_export.quantization.share_scales import share_scales
from tests.onnx.graphs import floats


class Evaluator:
    """Says that one scale instead of one for each output makes the error so many times as large."""

    def __init__(self, growth: float) -> None:
        self.growth = growth

    def loss(self, plan: QuantizationPlan) -> QualityLoss:
        raise NotImplementedError

    def error(self, plan: QuantizationPlan) -> float:
        return 0.01 * (self.growth if INT8_ONE_SCALE in plan.forms().values() else 1.0)


def plan(*forms: str) -> QuantizationPlan:
    return QuantizationPlan(
        "int8", tuple(WeightChoice(f"w{i}", (8, 4), f, "", {}, (128, 48)) for i, f in enumerate(forms)), ()
    )


@pytest.mark.parametrize(("growth", "form"), [(0.9, INT8_ONE_SCALE), (1.04, INT8_ONE_SCALE), (1.06, INT8_STATIC)])
def test_static_layers_share_a_scale_unless_the_error_grows(growth: float, form: str) -> None:
    found = share_scales(plan(INT8_STATIC, FP32, INT8_DYNAMIC), Evaluator(growth))
    assert [choice.form for choice in found.layers] == [form, FP32, INT8_DYNAMIC]
    assert found.layers[0].bytes == ((128, 36) if form == INT8_ONE_SCALE else (128, 48))


def test_without_static_layers_nothing_is_measured() -> None:
    assert share_scales(plan(FP32, INT8_DYNAMIC), Evaluator(np.nan)) == plan(FP32, INT8_DYNAMIC)


def test_a_layer_gets_its_scales_back_before_it_gets_more_bits() -> None:
    assert WIDER_FORM[INT8_ONE_SCALE] == INT8_STATIC


def test_one_scale_rounds_each_weight_to_its_nearest_step() -> None:
    matrix = floats(8, 4) * np.array([1.0, 0.1, 0.0, 3.0], dtype=np.float32)
    integers, scale = quantize_with_one_scale(matrix)
    assert scale.shape == ()
    assert np.abs(integers * scale - matrix).max() <= scale * 0.501
    assert np.abs(integers).max() == 63
    assert not integers[:, 2].any()
