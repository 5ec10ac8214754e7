"""Rankings by output error: those of groups that two programs share need not be computed twice."""

import pytest
import torch

from recprune_export.pipeline import make_sampled_task
from recprune_export.pipeline.planning import make_score_inputs
from recprune_export.pruning import find_per_table_projections, insert_per_table_projections
from recprune_export.pruning.importance.output_error import rank_by_output_error
from recprune_export.pruning.rotation.table_projections import find_equal_groups
from recprune_export.settings import Settings
from tests.pruning.rotation.test_table_projections import machine


def test_groups_that_a_projection_leaves_alone_have_the_ranking_of_before() -> None:
    program = machine()
    per_table = insert_per_table_projections(program, find_per_table_projections(program))
    inputs = make_score_inputs(program, make_sampled_task(program, Settings().finetuning))
    batches = inputs.batches[:2]
    before, after = (rank_by_output_error(p, batches, inputs.probe) for p in (program, per_table))
    equal = find_equal_groups(program, per_table)
    assert equal == {"mlp.0.weight:0"}
    for name in equal:
        assert after[name].order == before[name].order
        torch.testing.assert_close(torch.tensor(after[name].losses), torch.tensor(before[name].losses))
    computed = {name: before[name] for name in equal}
    again = rank_by_output_error(per_table, batches, inputs.probe, computed=computed)
    assert {name: ranking.order for name, ranking in again.items()} == {n: r.order for n, r in after.items()}
    assert again["mlp.0.weight:0"] is before["mlp.0.weight:0"]


def test_a_ranking_that_is_known_takes_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    program = machine()
    inputs = make_score_inputs(program, make_sampled_task(program, Settings().finetuning))
    computed = rank_by_output_error(program, inputs.batches[:1], inputs.probe)
    monkeypatch.setattr("recprune_export.pruning.statistics.moments.add_products", None)
    assert rank_by_output_error(program, inputs.batches[:1], inputs.probe, computed=computed) == computed
