from .schedule import tune_in_workers as tune_in_workers
from .tuning_process import OpenJob as OpenJob
from .tuning_workers import TuningWorkers as TuningWorkers
