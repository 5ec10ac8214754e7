from ._reapply import ReappliedPlan as ReappliedPlan
from ._reapply import reapply as reapply
from .describe_difference import compare_architectures as compare_architectures
from .describe_difference import compare_signatures as compare_signatures
from .judge_widths import judge_widths as judge_widths
