from ._resolve_sparsity import resolve_sparsity as resolve_sparsity
from ._sweep import SPARSITIES as SPARSITIES
from ._sweep import Sweep as Sweep
from ._sweep import sweep as sweep
from .measure_artifact import ArtifactMeasurements as ArtifactMeasurements
from .trial_files import make_folder as make_folder
from .trials import Trial as Trial
from .trials import Trials as Trials
