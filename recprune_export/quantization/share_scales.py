"""One scale for all outputs of a static layer, if the answers are then equally accurate."""

from dataclasses import replace

from recprune_export.quantization.quantization_constants import MAX_ERROR_GROWTH
from recprune_export.quantization.quantization_plan import INT8_ONE_SCALE, INT8_STATIC, QuantizationPlan
from recprune_export.quantization.relax_until_quality import PlanEvaluator


def share_scales(plan: QuantizationPlan, evaluator: PlanEvaluator) -> QuantizationPlan:
    """Return the plan whose static layers have one scale each, if the error of the outputs grows by at most 5 %.

    ONNX Runtime computes a factor for each scale in every request, 1.5 µs for 272 outputs; the rounding of the activations is usually the
    larger error (docs/decisions/speed-of-an-int8-dlrm.md). `relax_until_quality` first restores the separate scales of a layer.
    """
    shared = plan
    for choice in plan.layers:
        if choice.form == INT8_STATIC:
            inputs, outputs = choice.shape
            size = (choice.bytes[0], inputs * outputs + 4)
            shared = shared.with_choice(replace(choice, form=INT8_ONE_SCALE, bytes=size))
    if shared == plan or evaluator.error(shared) > MAX_ERROR_GROWTH * evaluator.error(plan):
        return plan
    return shared
