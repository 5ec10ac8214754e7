"""`GivenPlan`: a plan that was made before the job, with what is there already."""

from dataclasses import dataclass

from recprune_export.program.program import Program
from recprune_export.pruning.plan import Plan
from recprune_export.quantization.quantization_plan import QuantizationPlan


@dataclass(frozen=True)
class GivenPlan:
    """A plan that the job applies and does not make.

    `projected` is the dense program as a `plan` of one stage was made for it: fields and rows removed, projections inserted.
    `quantization` are the forms of weights of an earlier file of the plan.
    """

    plan: Plan
    projected: Program | None = None
    quantization: QuantizationPlan | None = None
