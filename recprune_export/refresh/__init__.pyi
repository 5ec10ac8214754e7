from .drift_report import DriftReport as DriftReport
from .drift_report import make_drift_report as make_drift_report
from .drift_report import recompress as recompress
from .plan_regret import GroupRegret as GroupRegret
