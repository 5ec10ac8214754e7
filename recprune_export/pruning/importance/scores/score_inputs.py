"""Inputs of a score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.program.program import Program
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.statistics.moments import CurvatureProbe

Response = Mapping[str, Tensor]
LossFunction = Callable[[Response, Mapping[str, Tensor]], Tensor]  # response, labels -> mean over the rows, a scalar
Distance = Callable[[Response, Response], Tensor]  # student, teacher -> mean over the rows, a scalar


@dataclass(frozen=True)
class ScoreInputs:
    """The dense program, batches of calibration data, and the losses of its outputs.

    `loss` compares with the labels where there are any, `distance` compares two responses, `probe` needs neither.
    `computed` are rankings by the same score of groups whose channels another program of the same function shares.
    """

    program: Program
    batches: Sequence[Batch]
    loss: LossFunction
    distance: Distance
    probe: CurvatureProbe
    seed: int = 0
    computed: Mapping[str, Ranking] = field(default_factory=dict)


Score = Callable[[ScoreInputs], dict[str, Tensor]]  # group name -> [width], the highest are kept
