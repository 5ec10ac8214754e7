"""What a score may look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import CurvatureProbe

Response = Mapping[str, Tensor]
LossFunction = Callable[[Response, Mapping[str, Tensor]], Tensor]  # response, labels -> mean over the rows, a scalar
Distance = Callable[[Response, Response], Tensor]  # student, teacher -> mean over the rows, a scalar


@dataclass(frozen=True)
class ScoreInputs:
    """The dense program, batches of calibration data, and how answers are judged on them.

    `loss` is against the labels where there are any, `distance` between two responses, `probe` needs neither.
    """

    program: Program
    batches: Sequence[Batch]
    loss: LossFunction
    distance: Distance
    probe: CurvatureProbe
    seed: int = 0


Score = Callable[[ScoreInputs], dict[str, Tensor]]  # group name -> [width], higher stays
