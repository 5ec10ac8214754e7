"""Channel rules by trial: which operators get one, why others do not, and whether any inferred rule is wrong.

    python benchmarks/bench_infer_rules.py [--width 8]

The first operators are those of `custom_operators.py`: some carry channels, and others only seem to. Next are the operators of PyTorch
that have a written rule, with that rule hidden, each on one form of its arguments. An inferred rule is wrong if it carries an axis that
the written rule freezes or combines. For each model with prunable channels, three random plans are applied and compared with the masked
model. CPU time of the trials of one node, one thread. Prints a table, and JSON in the last line.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
import numpy as np
import torch
from custom_operators import OPERATORS, TowerOfOperator
from torch import Tensor, fx, nn

from recprune_export.channels import Analysis
from recprune_export.channels.inferred_rules import INFERRED, InferredRule
from recprune_export.channels.rule_trials import infer_channel_rules
from recprune_export.environment import environment
from recprune_export.errors import PruningError
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.program.operator_registry import OPERATORS as REGISTRY
from recprune_export.program.operator_registry import Facet, name_operator
from recprune_export.progress import quiet
from recprune_export.pruning import GroupPlan, Plan, apply_plan, check_soundness

FIELDS = 3
F = torch.nn.functional
ON_CHANNELS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.abs, torch.square, torch.sin, torch.erf, F.gelu, F.silu, F.elu,
    F.leaky_relu, F.hardtanh, F.softplus, F.mish, torch.neg, torch.round, torch.sign, torch.log1p, torch.expm1,
    lambda x: x**3, lambda x: x.clamp(-0.2, 5.0), lambda x: x + x.flip(1), lambda x: x * x.flip(1), lambda x: x - 2.0,
    lambda x: x / (x.flip(1) + 3.0), lambda x: torch.maximum(x, x.flip(1)), lambda x: torch.where(x > 0, x, 0.5 * x),
    lambda x: x.sum(1), lambda x: x.mean(1), lambda x: x.amax(1), lambda x: x.softmax(1), lambda x: x.cumsum(1), lambda x: x.norm(dim=1),
    lambda x: x.sum(2), lambda x: x.mean(2), lambda x: x.amax(2), lambda x: x.softmax(2), lambda x: x.cumsum(2), lambda x: x.norm(dim=2),
    lambda x: F.layer_norm(x, x.shape[2:]), lambda x: F.normalize(x, dim=2), lambda x: x @ x.transpose(1, 2),
    lambda x: torch.cat([x, x], 1), lambda x: torch.stack([x, x], 1), lambda x: torch.cat([x, x], 2), lambda x: x.repeat(1, 2, 1),
    lambda x: x.flip(1), lambda x: x.topk(2, 1).values, lambda x: F.pad(x, (1, 1)), lambda x: x.flip(2), lambda x: x.sort(2).values,
    lambda x: F.glu(x, 2), lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: torch.einsum("bfd,bgd->bfg", x, x),
    lambda x: F.cosine_similarity(x[:, :1], x, dim=2), lambda x: F.rms_norm(x, x.shape[2:]), lambda x: F.log_softmax(x, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Judgment:
    """The axes that trials found an operator to carry; `expected` tells whether it carries channels or mixes them."""

    operator: str
    expected: str
    carries: str
    reason: str
    trials: int
    cpu_ms: float
    prunable: int
    sound: bool


class Tower(nn.Module):
    """x: B×F×4 → linear: B×F×D → the operator → linear over all that is left of a row."""

    def __init__(self, operator: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.first, self._operator = nn.Linear(4, width), operator
        self.last = nn.Linear(operator(torch.zeros(2, FIELDS, width)).flatten(1).shape[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._operator(self.first(x)).flatten(1))  # type: ignore[no-any-return]


@contextmanager
def hidden_rules(operators: set[Any]) -> Iterator[None]:
    """Leave out the written rules of some operators inside the block."""
    rules = REGISTRY._rules[Facet.CHANNELS]
    hidden = {operator: rules.pop(operator) for operator in operators}
    try:
        yield
    finally:
        rules.update(hidden)


def draw_plan(analysis: Analysis, seed: int) -> Plan:
    """Keep a random part of each group."""
    rng = np.random.default_rng(seed)
    groups = (
        GroupPlan(
            g.name, g.kind, g.width, tuple(sorted(rng.permutation(g.width)[: rng.integers(1, g.width + 1)].tolist()))
        )
        for g in analysis.groups
    )
    return Plan("random", tuple(groups))


def count_first(program: Program) -> int:
    """Return how many channels of the first layer can be removed."""
    return sum(group.width for group in program.analysis.groups if ("first.weight", 0) in group.axes())


def is_sound(program: Program) -> bool:
    """Return whether the pruned model equals the masked one for random plans."""
    try:
        for seed in range(3) if program.analysis.groups else ():
            plan = draw_plan(program.analysis, seed)
            check_soundness(program, plan, apply_plan(program, plan))
    except PruningError:
        return False
    return True


def judge(program: Program, expected: str, operators: set[Any]) -> list[Judgment]:
    """Return what trials find at the nodes of `operators`."""
    request = {
        program.signature.inputs[0].name: np.random.default_rng(0).normal(size=(8, FIELDS, 4)).astype(np.float32)
    }
    with quiet():
        begun = time.process_time()
        inferred = infer_channel_rules(program, request)
        milliseconds = (time.process_time() - begun) * 1e3
    prunable, sound = count_first(inferred), is_sound(inferred)
    nodes: list[fx.Node] = [n for n in inferred.module.graph.nodes if n.target in operators and INFERRED in n.meta]
    judgments = []
    for node in nodes:
        found = node.meta[INFERRED]
        rule = found if isinstance(found, InferredRule) else None
        judgments.append(
            Judgment(
                operator=name_operator(node.target).removesuffix(".default"),
                expected=expected,
                carries="nothing" if rule is None else "channels" if prunable else "other axes",
                reason=found.reason if rule is None else "",
                trials=0 if rule is None else rule.trials,
                cpu_ms=milliseconds / len(nodes),
                prunable=prunable,
                sound=sound,
            )
        )
    return judgments


def judge_custom(width: int) -> list[Judgment]:
    """Return the judgments of the operators of `custom_operators.py`."""
    judgments = []
    for operator in OPERATORS:
        torch.manual_seed(0)
        program = capture(TowerOfOperator(operator, FIELDS, width).eval(), (torch.randn(8, FIELDS, 4),))
        expected = "carries" if operator.carries else "mixes"
        judgments += judge(program, expected, {operator.register()._opoverload})
    return judgments


def judge_written(width: int) -> list[Judgment]:
    """Return the judgments of operators whose written rule is hidden."""
    judgments = []
    for operator in ON_CHANNELS:
        torch.manual_seed(0)
        program = capture(Tower(operator, width).eval(), (torch.randn(8, FIELDS, 4),))
        expected = "carries" if count_first(program) else "mixes"
        nodes = [n for n in program.module.graph.nodes if n.op == "call_function"]
        targets = {n.target for n in nodes[1:-1]} - {
            nodes[0].target,
            nodes[-1].target,
            torch.ops.aten.flatten.using_ints,
        }
        for target in targets:
            with hidden_rules({target}):
                fresh = capture(Tower(operator, width).eval(), (torch.randn(8, FIELDS, 4),))
                judgments += judge(fresh, expected, {target})
    return judgments


def print_judgments(title: str, judgments: list[Judgment]) -> None:
    """Print a table."""
    print(
        f"\n{title}\n{'operator':<44}{'is':<9}{'carries':<12}{'trials':>7}{'CPU ms':>8}{'prunable':>10}  sound  reason"
    )
    for j in judgments:
        print(
            f"{j.operator:<44}{j.expected:<9}{j.carries:<12}{j.trials:>7,}{j.cpu_ms:>8.0f}{j.prunable:>10}  {'yes' if j.sound else 'NO':<7}"
            f"{j.reason}"
        )


@click.command()
@click.option("--width", default=8, show_default=True)
def main(width: int) -> None:
    """Judge both kinds of operators."""
    custom, written = judge_custom(width), judge_written(width)
    print_judgments("Custom operators", custom)
    print_judgments("Operators with a written rule, hidden", written)
    wrong = [j for j in (*custom, *written) if not j.sound or (j.expected == "mixes" and j.prunable)]
    counts = {
        name: dict(Counter(f"{j.expected}, {'pruned' if j.prunable else 'frozen'}" for j in judgments))
        for name, judgments in (("custom", custom), ("written", written))
    }
    print(f"\n{counts}; wrong: {[j.operator for j in wrong] or 'none'}")
    report = {"environment": environment(), "width": width, "counts": counts, "wrong": len(wrong)}
    print(json.dumps({"benchmark": "infer-rules", **report, "results": [asdict(j) for j in (*custom, *written)]}))


if __name__ == "__main__":
    main()
