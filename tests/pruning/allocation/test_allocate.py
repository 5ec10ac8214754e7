import functools
import itertools
import random
from collections import Counter
from collections.abc import Mapping
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import Budget, ParameterCounter, Ranking, make_plan, rank_by
from recprune_export.pruning.allocation.allocate import ParameterLimit, compute_convex_envelope
from recprune_export.pruning.allocation.parameter_counts import RemainingParameters
from recprune_export.recommenders import InputSpec, build_recommender

losses = st.lists(st.floats(0.0, 10.0), min_size=2, max_size=12).map(lambda v: sorted(v, reverse=True))


@given(losses)
def test_the_hull_is_below_convex_and_ends_where_the_curve_ends(values: list[float]) -> None:
    curve = compute_convex_envelope(values)
    assert all(c <= v + 1e-9 for c, v in zip(curve, values, strict=True))
    assert (curve[0], curve[-1]) == pytest.approx((values[0], values[-1]))
    steps = [a - b for a, b in itertools.pairwise(curve)]
    assert all(first >= second - 1e-6 for first, second in itertools.pairwise(steps))


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e6))
def test_nearer_is_by_ratio(one: float, other: float) -> None:
    limit = ParameterLimit(target=1000.0, maximum=1500.0)
    assert limit.is_closer(1000.0, other) or other == 1000.0
    assert not (limit.is_closer(one, other) and limit.is_closer(other, one))


class ManyFields(nn.Module):
    def __init__(self, fields: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20 + field, 4) for field in range(fields))
        self.mlp = nn.Sequential(nn.Linear(4 * fields, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """[B, fields] -> [B]."""
        vectors = [table(ids[:, field]) for field, table in enumerate(self.tables)]
        return self.mlp(torch.cat(vectors, 1)).squeeze(1)  # type: ignore[no-any-return]


CLICKS = InputSpec(categorical={"user": 400, "item": 300, "type": 5}, n_numeric=3, labels=("click",))
HISTORIES = InputSpec(items=250, max_length=6, labels=("next_item",))


@functools.cache
def captured(name: str) -> Program:
    torch.manual_seed(0)
    if name == "many fields":
        return capture(ManyFields(12).eval(), (), {"ids": torch.zeros(2, 12, dtype=torch.int64)})
    spec = HISTORIES if name == "sasrec" else CLICKS
    sizes = {"dim": 16, "layers": 2, "heads": 2, "width": 40} if name == "sasrec" else {"dim": 8, "hidden": (40, 12)}
    return capture(build_recommender(name, spec, sizes).eval(), (spec.example_request(),))


def random_rankings(program: Program, seed: int) -> dict[str, Ranking]:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, 2, len(program.analysis.groups))
    return rank_by(
        {
            g.name: s * torch.rand(g.width, generator=generator)
            for g, s in zip(program.analysis.groups, scales, strict=True)
        }
    )


def plain_counts(program: Program, removed: frozenset[int]) -> dict[bool, int]:
    """The numbers of parameters of the tables (True) and of the rest, from the removed indices of each axis."""
    slices = {s for g in program.analysis.groups for c in g.channels if c.identity in removed for s in c.slices}
    lengths = {name: list(p.shape) for name, p in program.parameters().items()}
    for s in slices:
        if s.tensor in lengths:
            lengths[s.tensor][s.axis] -= 1
    totals = {True: 0, False: 0}
    for name, sizes in lengths.items():
        totals[name in program.analysis.tables] += prod(sizes)
    return totals


class PlainSavings:
    """The parameters of one channel, where each axis has the expected number of indices at the widths."""

    def __init__(self, program: Program) -> None:
        self.tables, self.full = program.analysis.tables, {g.name: g.width for g in program.analysis.groups}
        at: dict[tuple[str, int], dict[int, set[str]]] = {}
        for group in program.analysis.groups:
            for s in (s for channel in group.channels for s in channel.slices):
                at.setdefault((s.tensor, s.axis), {}).setdefault(s.index, set()).add(group.name)
        self.axes = {
            name: [
                (size, Counter(frozenset(groups) for groups in at.get((name, axis), {}).values()))
                for axis, size in enumerate(p.shape)
            ]
            for name, p in program.parameters().items()
        }

    def per_channel(self, widths: Mapping[str, int], group: str, in_tables: bool) -> float:
        total = 0.0
        for name, axes in self.axes.items():
            if (name in self.tables) != in_tables:
                continue
            shares = [
                {k: n * prod(widths[g] / self.full[g] for g in k) for k, n in numbers.items()} for _, numbers in axes
            ]
            lengths = [
                sum(share.values()) + size - sum(numbers.values())
                for share, (size, numbers) in zip(shares, axes, strict=True)
            ]
            for axis, share in enumerate(shares):
                own = sum(number for key, number in share.items() if group in key)
                total += own / widths[group] * prod(n for other, n in enumerate(lengths) if other != axis)
        return total


def plain_widths(program: Program, rankings: Mapping[str, Ranking], budget: Budget) -> dict[str, int]:
    """The widths where every step prices all groups and counts all parameters again."""
    groups, saving = program.analysis.groups, PlainSavings(program)
    widths = {g.name: g.width for g in groups}
    curves = {g.name: compute_convex_envelope(rankings[g.name].losses) for g in groups}

    def size(in_tables: bool) -> int:
        removed = (g.channels[p].identity for g in groups for p in rankings[g.name].order[widths[g.name] :])
        return plain_counts(program, frozenset(removed))[in_tables]

    for kind, limit in budget.limits(ParameterCounter(program).sizes()).items():
        in_tables = kind == "embedding"
        while (current := size(in_tables)) > limit.target:
            steps = []
            for group in groups:
                width = widths[group.name]
                smaller = budget.width(group.kind, max(1, width - max(1, group.width // 64)), group.width)
                saved = (width - smaller) * saving.per_channel(widths, group.name, in_tables)
                if (group.kind == kind or not in_tables) and width > 1 and saved > 0.0:
                    curve = curves[group.name]
                    steps.append(((curve[smaller] - curve[width]) / saved, group.name, smaller))
            if not steps:
                break
            _, name, smaller = min(steps, key=lambda step: step[0])
            before, widths[name] = widths[name], smaller
            if current <= limit.maximum and not limit.is_closer(size(in_tables), current):
                widths[name] = before
                break
    return widths


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "dcn_v2", "sasrec", "many fields"])
@pytest.mark.parametrize("budget", [Budget(0.5, 0.7), Budget(0.9, 0.9, 1.0, 1.0)])
def test_widths_are_those_of_the_plain_form(name: str, budget: Budget) -> None:
    program = captured(name)
    rankings = random_rankings(program, seed=0)
    plan = make_plan(program, rankings, budget, "random")
    assert {group.group: len(group.keep) for group in plan.groups} == plain_widths(program, rankings, budget)


@pytest.mark.parametrize("name", ["dlrm", "sasrec"])
def test_counts_are_right_after_any_changes(name: str) -> None:
    program, rng = captured(name), random.Random(0)
    channels = [c.identity for group in program.analysis.groups for c in group.channels]
    remaining, removed = RemainingParameters(ParameterCounter(program)), set[int]()
    for _ in range(40):
        changed = set(rng.sample(channels, 5))
        remaining.restore(changed & removed)
        remaining.remove(changed - removed)
        removed ^= changed
        sizes = remaining.sizes()
        assert {True: sizes.tables, False: sizes.rest} == plain_counts(program, frozenset(removed))


def test_a_step_prices_few_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from recprune_export.pruning.allocation import allocate

    prices, price = [], allocate._CheapestSteps._price
    monkeypatch.setattr(
        allocate._CheapestSteps, "_price", lambda self, group: prices.append(group) or price(self, group)
    )
    program = captured("many fields")
    plan = make_plan(program, random_rankings(program, seed=1), Budget(0.9, 0.0), "random")
    steps = sum(group.width - len(group.keep) for group in plan.groups)
    assert steps > 20
    assert len(prices) <= len(plan.groups) + 3 * steps
