"""`GivenPlan`: a plan that was made before the job, with results that already exist."""

from dataclasses import dataclass

from recprune_export.program.program import Program
from recprune_export.pruning.plan import Plan
from recprune_export.quantization.quantization_plan import QuantizationPlan


@dataclass(frozen=True)
class GivenPlan:
    """A plan that the job applies instead of making one.

    `projected` is the form of the dense program for which a `plan` of one stage was made: fields and rows removed, projections inserted.
    `quantization` contains the forms of weights in an earlier file of the plan.
    """

    plan: Plan
    projected: Program | None = None
    quantization: QuantizationPlan | None = None
