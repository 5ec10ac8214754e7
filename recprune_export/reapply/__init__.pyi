from ._reapply import ReappliedPlan as ReappliedPlan
from ._reapply import reapply as reapply
from .find_difference import find_difference as find_difference
from .judge_widths import judge_widths as judge_widths
