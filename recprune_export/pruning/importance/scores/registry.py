"""`SCORES`: every score by name. To add one, write the function, and add it here and in `names.py`."""

from collections.abc import Callable

from recprune_export.errors import UsageError
from recprune_export.pruning.importance.output_error import rank_by_output_error
from recprune_export.pruning.importance.ranking import Ranking, rank_by
from recprune_export.pruning.importance.scores.magnitude import magnitude_l1, magnitude_l2, random, taylor
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.permutation import permutation
from recprune_export.pruning.importance.scores.redundancy import cosine
from recprune_export.pruning.importance.scores.score_inputs import Score, ScoreInputs
from recprune_export.pruning.importance.scores.variance import variance

Ranker = Callable[[ScoreInputs], dict[str, Ranking]]


def _output_error(inputs: ScoreInputs) -> dict[str, Ranking]:
    return rank_by_output_error(inputs.program, inputs.batches, inputs.probe, inputs.seed, computed=inputs.computed)


def _by(score: Score) -> Ranker:
    return lambda inputs: rank_by(score(inputs))


SCORES: dict[str, Ranker] = {
    OUTPUT_ERROR: _output_error,
    "taylor": _by(taylor),
    "permutation": _by(permutation),
    "variance": _by(variance),
    "cosine": cosine,
    "magnitude-l1": _by(magnitude_l1),
    "magnitude-l2": _by(magnitude_l2),
    "random": _by(random),
}


def rank_channels(name: str, inputs: ScoreInputs) -> dict[str, Ranking]:
    """Rank the channels of every group. Raises `UsageError` for an unknown name."""
    if name not in SCORES:
        raise UsageError(f"'{name}' is not a score; choose one of {', '.join(sorted(SCORES))}.")
    return SCORES[name](inputs)
