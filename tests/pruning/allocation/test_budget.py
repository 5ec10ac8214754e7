import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.pruning import AllocationStrategy, Budget, ParameterCounter, Ranking, make_plan, rank_by
from recprune_export.pruning.pruning_constants import LANES
from tests.pruning.models import scorer

PROGRAM = scorer()
ANALYSIS = PROGRAM.analysis
SIZES = ParameterCounter(PROGRAM)


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.width, generator=generator) for group in ANALYSIS.groups}


def rankings(seed: int = 0) -> dict[str, Ranking]:
    return rank_by(scores(seed))


@given(st.floats(0.0, 0.9), st.floats(0.0, 0.8), st.floats(0.0, 1.0), st.sampled_from(["loss", "uniform"]))
@settings(max_examples=60)
def test_both_parts_meet_their_share(tables: float, rest: float, share: float, way: AllocationStrategy) -> None:
    budget = Budget(tables, rest, share, share)
    plan = make_plan(PROGRAM, rankings(), budget, "random", way)
    dense, kept = SIZES.sizes(), SIZES.sizes(plan.removed(ANALYSIS))
    assert kept.tables <= budget.limits(dense)["embedding"].maximum + 1e-6
    assert kept.rest <= budget.limits(dense)["hidden"].maximum + 1e-6


@pytest.mark.parametrize("way", ["loss", "uniform"])
def test_one_channel_more_stays_where_that_is_nearer_and_zeros_can_make_up_for_it(way: AllocationStrategy) -> None:
    dense = SIZES.sizes().tables

    def kept(sparsity: float, share: float) -> float:
        plan = make_plan(PROGRAM, rankings(), Budget(sparsity, 0.0, share, share), "random", way)
        return SIZES.sizes(plan.removed(ANALYSIS)).tables / dense

    assert kept(0.9, 0.95) > 1.0 - 0.9
    assert kept(0.9, 0.95) <= 1.5 * (1.0 - 0.9)
    assert kept(0.9, 1.0) <= 1.0 - 0.9 + 1e-9


def test_nothing_is_removed_where_nothing_is_asked() -> None:
    assert not make_plan(PROGRAM, rankings(), Budget(0.0, 0.0), "random").removed(ANALYSIS)


def test_the_channels_of_the_highest_score_stay() -> None:
    given_scores = scores()
    for part in make_plan(PROGRAM, rank_by(given_scores), Budget(0.5, 0.5), "random").groups:
        best = given_scores[part.group].topk(len(part.keep)).indices.tolist()
        assert sorted(best) == list(part.keep)


def test_more_sparsity_never_keeps_more() -> None:
    kept = [SIZES.sizes(make_plan(PROGRAM, rankings(), Budget(s, s), "").removed(ANALYSIS)) for s in (0.3, 0.6, 0.9)]
    assert kept[0].tables > kept[1].tables > kept[2].tables
    assert kept[0].rest > kept[1].rest > kept[2].rest


@pytest.mark.parametrize("width", [64, 100, 256])
def test_wide_layers_end_on_whole_blocks(width: int) -> None:
    from torch import nn

    from recprune_export.program.capture import capture

    program = capture(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1)), (torch.randn(3, 8),))
    analysis = program.analysis
    (group,) = analysis.groups
    (part,) = make_plan(program, rank_by({group.name: torch.rand(width)}), Budget(0.5, 0.5), "").groups
    assert len(part.keep) % LANES == 0 or len(part.keep) < 2 * LANES
