from .budget import AllocationStrategy as AllocationStrategy
from .budget import Budget as Budget
from .budget import make_plan as make_plan
from .parameter_counts import ParameterCounter as ParameterCounter
from .parameter_counts import ParameterCounts as ParameterCounts
