import math
from collections.abc import Mapping

import pytest
import torch

from recprune_export.data import Batch
from recprune_export.errors import UsageError
from recprune_export.finetuning import make_objective
from recprune_export.program import sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import SCORE_DESCRIPTIONS, ScoreInputs, rank_channels
from recprune_export.pruning.importance.scores import SCORES
from recprune_export.recommenders import RECOMMENDERS
from tests.pruning.importance.scores.inputs import HIDDEN, inputs, scores_of
from tests.recommenders.test_recommenders import make, spec_of

OF_WHAT_A_CHANNEL_DOES = ["magnitude-l1", "magnitude-l2", "permutation", "taylor", "variance"]


def test_every_score_has_a_name_that_the_command_line_knows() -> None:
    assert tuple(SCORE_DESCRIPTIONS) == tuple(SCORES)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_ranks_every_channel_and_is_repeatable(name: str) -> None:
    one, two = rank_channels(name, inputs()), rank_channels(name, inputs())
    for group in inputs().program.analysis.groups:
        assert one[group.name].order == two[group.name].order
        assert one[group.name].losses == two[group.name].losses
        assert one[group.name].transform == two[group.name].transform
        assert sorted(one[group.name].order) == list(range(group.width))
        losses = torch.tensor(one[group.name].losses)
        assert len(losses) == group.width + 1
        assert bool(losses.isfinite().all())
        assert bool((losses.diff() <= 0).all())


@pytest.mark.parametrize("name", [*OF_WHAT_A_CHANNEL_DOES, "cosine"])
def test_a_dead_unit_comes_last(name: str) -> None:
    values = scores_of(name, inputs(dead=5))[HIDDEN]
    assert values[5] == 0.0
    assert int(values.argmin()) == 5


@pytest.mark.parametrize("name", OF_WHAT_A_CHANNEL_DOES)
def test_a_loud_unit_comes_first(name: str) -> None:
    assert int(scores_of(name, inputs(louder=7))[HIDDEN].argmax()) == 7


def test_a_score_that_there_is_not_is_said() -> None:
    with pytest.raises(UsageError, match="'luck' is not a score; choose one of cosine"):
        rank_channels("luck", inputs())


@pytest.mark.parametrize("recommender", sorted(RECOMMENDERS))
def test_every_channel_of_every_recommender_has_a_place(recommender: str) -> None:
    program = capture(make(recommender), (spec_of(recommender).example_request(),))
    analysis = program.analysis
    names = [i.name for i in program.signature.inputs]
    batches: list[Batch] = [
        (dict(zip(names, sample_request_tensors(program.signature, 32, s), strict=True)), {}) for s in (0, 1)
    ]
    objective = make_objective(program, ())
    given = ScoreInputs(program, batches, no_labels, objective.distillation, objective.probe)
    for name, score in SCORES.items():
        rankings = score(given)
        for group in analysis.groups:
            assert sorted(rankings[group.name].order) == list(range(group.width)), name
            assert all(map(math.isfinite, rankings[group.name].losses)), name
        if name in OF_WHAT_A_CHANNEL_DOES:
            assert all(rankings[group.name].losses[0] > 0.0 for group in analysis.groups), name


def no_labels(response: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([answer.square().mean() for answer in response.values()]).sum()
