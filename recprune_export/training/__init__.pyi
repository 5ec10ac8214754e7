from ._train import TrainingResult as TrainingResult
from ._train import train as train
from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import check_storage_sizes as check_storage_sizes
from .checkpoint import load_checkpoint as load_checkpoint
from .loop import FitResult as FitResult
from .loop import fit as fit
