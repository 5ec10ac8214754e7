from dataclasses import replace

import pytest
import torch

from recprune_export.errors import PruningError
from recprune_export.program import sample_request_tensors
from recprune_export.pruning import Float64Interpreter, Plan, apply_plan, check_soundness
from recprune_export.pruning.apply import make_mask
from tests.properties import half_plan, random_plan
from tests.pruning.models import scorer

PROGRAM = scorer()
ANALYSIS = PROGRAM.analysis


def test_applying_a_plan_twice_gives_the_same_to_the_bit_and_leaves_the_program() -> None:
    before = {name: p.detach().clone() for name, p in PROGRAM.parameters().items()}
    plan = random_plan(ANALYSIS, seed=1)
    one, two = (apply_plan(PROGRAM, plan).parameters() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(before[name], p) for name, p in PROGRAM.parameters().items())


def test_only_shared_tensors_of_which_nothing_goes_lie_in_the_memory_of_the_original() -> None:
    hidden = [
        replace(g, keep=tuple(range(g.width))) if g.kind == "embedding" else g for g in half_plan(ANALYSIS).groups
    ]
    pruned = apply_plan(
        PROGRAM, Plan("half of the rest", tuple(hidden)), shared=frozenset({"user.weight", "mlp.0.weight"})
    )
    original = PROGRAM.parameters()
    same = {name for name, p in pruned.parameters().items() if p.data_ptr() == original[name].data_ptr()}
    assert same == {"user.weight"}


@pytest.mark.parametrize("name", ["user.weight", "mlp.0.weight", "mlp.0.bias", "mlp.4.weight"])
def test_one_wrong_weight_is_found(name: str) -> None:
    plan = half_plan(ANALYSIS)
    pruned = apply_plan(PROGRAM, plan)
    assert check_soundness(PROGRAM, plan, pruned).error < 1e-12
    with torch.no_grad():
        pruned.parameters()[name].add_(1e-3)
    with pytest.raises(PruningError, match="differs from the masked one"):
        check_soundness(PROGRAM, plan, pruned)


def test_a_rewrite_for_another_plan_is_found() -> None:
    with pytest.raises(PruningError):
        check_soundness(PROGRAM, half_plan(ANALYSIS), apply_plan(PROGRAM, random_plan(ANALYSIS, 5)))


def test_what_is_masked_is_zero_where_channels_go_and_nowhere_else() -> None:
    before = {name: p.detach().clone() for name, p in PROGRAM.parameters().items()}
    plan = half_plan(ANALYSIS)
    original = Float64Interpreter(PROGRAM, make_mask(ANALYSIS, plan.removed(ANALYSIS)), keep_values=True)
    original(*sample_request_tensors(PROGRAM.signature, batch=4))
    values = {n.name: original.values[n.name] for n in PROGRAM.module.graph.nodes if n.op == "get_attr"}
    zeros = {str(n.target): int((values[n.name] == 0).sum()) for n in PROGRAM.module.graph.nodes if n.name in values}
    assert (zeros["mlp.0.bias"], zeros["mlp.4.bias"]) == (12, 0)
    table = next(n for n in PROGRAM.module.graph.nodes if str(n.target) == "user.weight")
    (looked_up,) = table.users
    assert (original.values[looked_up.name] == 0).sum() == 4 * 8  # the table itself is neither copied nor masked
    assert all(torch.equal(before[name], p) for name, p in PROGRAM.parameters().items())
