from .names import OUTPUT_ERROR as OUTPUT_ERROR
from .names import SCORE_DESCRIPTIONS as SCORE_DESCRIPTIONS
from .registry import SCORES as SCORES
from .registry import rank_channels as rank_channels
from .score_inputs import LossFunction as LossFunction
from .score_inputs import ScoreInputs as ScoreInputs
