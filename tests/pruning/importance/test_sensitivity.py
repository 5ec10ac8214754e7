import json
from itertools import pairwise, permutations

import pytest
import torch

from recprune_export.pruning import SCORE_DESCRIPTIONS, SHARES, Sensitivity, measure_sensitivity
from recprune_export.pruning.importance.sensitivity import spearman
from tests.pruning.importance.scores.inputs import HIDDEN, inputs


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return measure_sensitivity(inputs())


def test_every_group_has_every_score(found: Sensitivity) -> None:
    assert [(g.group, g.width) for g in found.groups] == [(g.name, g.width) for g in inputs().program.analysis.groups]
    for group in found.groups:
        assert set(group.quantiles) == set(SCORE_DESCRIPTIONS)
        for quantiles in group.quantiles.values():
            assert all(1.0 >= one >= other >= 0.0 for one, other in pairwise(quantiles))
            assert quantiles[0] == 1.0


def test_less_width_never_loses_less(found: Sensitivity) -> None:
    for group in found.groups:
        lost = [group.relative_loss(share) for share in SHARES]
        assert 0.0 <= lost[0] <= lost[1] <= lost[2] <= 1.0
        assert group.width_at(2) == group.width // 2


def test_agreement_is_symmetric_and_bounded(found: Sensitivity) -> None:
    for group in found.groups:
        for (one, other), rho in group.agreement.items():
            assert -1.0 <= rho <= 1.0
            assert group.agreement[other, one] == pytest.approx(rho)
    assert found.agreement("magnitude-l1", "magnitude-l2") > 0.7  # type: ignore[operator]
    assert found.agreement("taylor", "taylor") is None


def test_a_rotation_has_no_order_to_agree_with(found: Sensitivity) -> None:
    rotated = [group for group in found.groups if group.rotated]
    assert rotated
    assert not any("output-error" in pair for group in rotated for pair in group.agreement)
    assert any("output-error" in pair for group in found.groups if group.group == HIDDEN for pair in group.agreement)


@pytest.mark.parametrize("order", list(permutations(range(4)))[::5])
def test_spearman_is_the_correlation_of_ranks(order: tuple[int, ...]) -> None:
    straight = (0, 1, 2, 3)
    ranks = torch.stack([torch.tensor(o).argsort().double() for o in (straight, order)])
    assert spearman(straight, order) == pytest.approx(float(torch.corrcoef(ranks)[0, 1]))


def test_it_is_plain_json(found: Sensitivity) -> None:
    values = json.loads(json.dumps(found.to_dict()))
    assert values["groups"][0]["lost"]["1/2"]["width"] == 8
    assert set(values["groups"][0]["scores"]) == set(SCORE_DESCRIPTIONS)
