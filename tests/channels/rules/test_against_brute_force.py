"""Each rule's tags against brute force: change or mask one channel in the parameters, and see what moves."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recprune_export.channels import Analysis, Channel, analyze
from recprune_export.channels.analysis import propagate_tags
from recprune_export.channels.tags import TensorTags, axes_to_elements
from recprune_export.channels.walk import Walk
from recprune_export.program import Program, sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import Float64Interpreter, Mask
from tests.properties import check_any_plan, no_zeros

F = torch.nn.functional
Operator = Callable[[Tensor], Tensor]


class Under(nn.Module):
    """x: B×F×4 → linear: B×F×D → the operator → linear over all that is left of a row."""

    def __init__(self, operator: Operator | nn.Module, fields: int, width: int) -> None:
        super().__init__()
        self.first, self.operator = nn.Linear(4, width), operator
        with torch.no_grad():
            left = self.operator(self.first(torch.zeros(2, fields, 4))).flatten(1).shape[1]
        self.last = nn.Linear(left, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operator(self.first(x)).flatten(1))  # type: ignore[no-any-return]


# What moves with a channel is exactly what carries its tag.
EXACT: dict[str, Callable[[int, int], Operator | nn.Module]] = {
    "relu": lambda f, d: torch.relu,
    "sigmoid": lambda f, d: torch.sigmoid,
    "tanh": lambda f, d: torch.tanh,
    "gelu": lambda f, d: F.gelu,
    "silu": lambda f, d: F.silu,
    "leaky_relu": lambda f, d: F.leaky_relu,
    "abs": lambda f, d: torch.abs,
    "exp": lambda f, d: torch.exp,
    "square": lambda f, d: torch.square,
    "pow 3": lambda f, d: lambda x: x**3,
    "1 - x": lambda f, d: lambda x: 1 - x,
    "x / 2": lambda f, d: lambda x: x / 2,
    "clamp": lambda f, d: lambda x: x.clamp(-0.2, 5.0),
    "where": lambda f, d: lambda x: torch.where(x > 0, x, 0.5 * x),
    "masked_fill": lambda f, d: lambda x: x.masked_fill(torch.arange(f).reshape(1, f, 1) == 0, 0.0),
    "gate": lambda f, d: lambda x: x * torch.sigmoid(x),
    "vector": lambda f, d: Scale(d),
    "prelu": lambda f, d: nn.Sequential(Swap(), nn.PReLU(d), Swap()),
    "batch_norm": lambda f, d: nn.Sequential(Swap(), nn.BatchNorm1d(d), Swap()),
    "cast": lambda f, d: lambda x: x.double().float(),
    "dropout": lambda f, d: nn.Dropout(0.5),
    "transpose": lambda f, d: lambda x: x.transpose(1, 2),
    "permute": lambda f, d: lambda x: x.permute(2, 0, 1).permute(1, 2, 0),
    "unsqueeze": lambda f, d: lambda x: x.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda f, d: lambda x: x.unsqueeze(1).squeeze(1),
    "flatten": lambda f, d: lambda x: x.flatten(1),
    "view": lambda f, d: lambda x: x.reshape(len(x), -1),
    "unflatten": lambda f, d: lambda x: x.flatten(1).unflatten(1, (f, d)),
    "select": lambda f, d: lambda x: x[:, f - 1],
    "slice": lambda f, d: lambda x: x[:, 1:],
    "slice of channels": lambda f, d: lambda x: x[:, :, 1 : d - 1],
    "index_select": lambda f, d: lambda x: x.index_select(1, torch.tensor([f - 1, 0, f - 1])),
    "index of channels": lambda f, d: lambda x: x[:, :, torch.tensor([d - 1, 1])],
    "cat": lambda f, d: lambda x: torch.cat([x, x.relu(), x[:, :1]], 1),
    "cat of channels": lambda f, d: lambda x: torch.cat([x, 2 * x], 2),
    "stack": lambda f, d: lambda x: torch.stack([x, x.tanh()], 1),
    "split": lambda f, d: lambda x: torch.cat(x.split([1, d - 1], 2)[::-1], 2),
    "chunk": lambda f, d: lambda x: torch.cat(x.chunk(2, 2), 2),
    "unbind": lambda f, d: lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "expand": lambda f, d: lambda x: x[:, :1].expand(-1, 3, -1),
    "repeat": lambda f, d: lambda x: x.repeat(1, 2, 1),
    "tile": lambda f, d: lambda x: x.tile(1, 1, 2),
    "flip": lambda f, d: lambda x: x.flip(1),
    "pad": lambda f, d: lambda x: F.pad(x, (1, 2)),
    "clone": lambda f, d: lambda x: x.clone().contiguous().detach() + x,
    "movedim": lambda f, d: lambda x: x.movedim(1, 2),
    "zeros_like": lambda f, d: lambda x: x + torch.zeros_like(x),
    "new_zeros": lambda f, d: lambda x: torch.cat([x, x.new_zeros(len(x), 1, d)], 1),
    "sum over fields": lambda f, d: lambda x: x.sum(1),
    "mean over fields": lambda f, d: lambda x: x.mean(1, keepdim=True),
    "max over fields": lambda f, d: lambda x: x.amax(1) + x.max(1).values,
    "softmax over fields": lambda f, d: lambda x: x.softmax(1),
    "cumsum over fields": lambda f, d: lambda x: x.cumsum(1),
    "norm over fields": lambda f, d: lambda x: x.norm(dim=1),
    "pairwise products": lambda f, d: lambda x: torch.stack([x[:, i] * x[:, j] for i in range(f) for j in range(i)], 1),
    "half of FM": lambda f, d: lambda x: x.sum(1).square() - x.square().sum(1),
    "matmul from the left": lambda f, d: lambda x: torch.ones(3, f) @ x,
    "einsum that keeps": lambda f, d: lambda x: torch.einsum("bfd,gf->bgd", x, torch.ones(2, f)),
    "conv over fields": lambda f, d: nn.Sequential(Swap(), nn.Conv1d(d, d, 2, groups=d), Swap()),
    "topk over fields": lambda f, d: lambda x: x.topk(2, 1).values,
    "glu": lambda f, d: lambda x: F.glu(torch.cat([x, x.sin()], 2), 2),
    "outer, flattened": lambda f, d: lambda x: (x.unsqueeze(-1) * torch.ones(3)).flatten(2),
}  # fmt: skip

# Here channels are contracted: what carries a tag moves with it, and so may other elements.
CONTRACTING: dict[str, Callable[[int, int], Operator | nn.Module]] = {
    "linear": lambda f, d: nn.Linear(d, 5),
    "dot products": lambda f, d: lambda x: x @ x.transpose(1, 2),
    "bmm": lambda f, d: lambda x: torch.bmm(x, x.transpose(1, 2)),
    "baddbmm": lambda f, d: lambda x: torch.baddbmm(torch.ones(1, f, f), x, x.transpose(1, 2)),
    "einsum": lambda f, d: lambda x: torch.einsum("bfd,bgd->bfg", x, x),
    "tensordot": lambda f, d: lambda x: torch.tensordot(x, torch.ones(d, 3), dims=([2], [0])),
    "sum over channels": lambda f, d: lambda x: (x * x).sum(2),
    "norm over channels": lambda f, d: lambda x: (x * x.detach().abs().relu()).norm(dim=2),
    "layer_norm": lambda f, d: nn.Sequential(nn.Linear(d, d, bias=False), nn.LayerNorm(d)),
    "rms_norm": lambda f, d: nn.RMSNorm(d),
    "cosine": lambda f, d: lambda x: F.cosine_similarity(x[:, :1], x, dim=2),
    "attention": lambda f, d: lambda x: F.scaled_dot_product_attention(x, x, x),
    "multi-head": lambda f, d: Attention(d),
    "gru": lambda f, d: First(nn.GRU(d, 5, batch_first=True)),
    "lstm": lambda f, d: First(nn.LSTM(d, 5, batch_first=True, bidirectional=True)),
    "conv1d": lambda f, d: nn.Sequential(Swap(), nn.Conv1d(d, 5, 2)),
    "conv2d": lambda f, d: nn.Sequential(Unsqueeze(), nn.Conv2d(1, 3, (1, d))),
    "bilinear": lambda f, d: Squared(d),
}  # fmt: skip


class Swap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Unsqueeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


class Squared(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Bilinear(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)  # type: ignore[no-any-return]


def tagged_elements(walk: Walk, tags: TensorTags, channel: int) -> Tensor:
    """Return for each element whether `channel` removes it."""
    elements = axes_to_elements(walk.sets, tags.removed_by)
    distinct, position = elements.unique(return_inverse=True)
    return torch.tensor([channel in walk.sets.channels_in(int(s)) for s in distinct])[position]


def values_with(program: Program, tensors: tuple[Tensor, ...], channel: Channel, masked: bool) -> dict[str, Tensor]:
    """Return what each node computes with the channel's slices masked, or moved by chance."""
    gone: dict[tuple[str, int], list[int]] = {}
    for s in channel.slices:
        gone.setdefault((s.tensor, s.axis), []).append(s.index)
    if masked:
        run = Float64Interpreter(program, Mask({axis: torch.tensor(i) for axis, i in gone.items()}), keep_values=True)
        run(*tensors)
        return run.values
    kept = {name: p.detach().clone() for name, p in program.parameters().items()}
    with torch.no_grad():
        for (name, axis), indices in gone.items():
            if name in kept:
                for index in indices:
                    program.parameters()[name].select(axis, index).add_(0.37)
    run = Float64Interpreter(program, keep_values=True)
    run(*tensors)
    with torch.no_grad():
        for name, value in kept.items():
            program.parameters()[name].copy_(value)
    return run.values


def check(operator: Operator | nn.Module, fields: int, width: int, exact: bool) -> None:
    module = no_zeros(Under(operator, fields, width))
    x = torch.randn(3, fields, 4)
    program = capture(module, (x,))
    walk = propagate_tags(program.module, sample_request_tensors(program.signature, batch=2), {})
    analysis: Analysis = analyze(program)
    tensors, others = (sample_request_tensors(program.signature, 2, seed) for seed in (1, 2))
    run = Float64Interpreter(program, keep_values=True)
    run(*tensors)
    before = run.values
    nodes = [
        n for n in program.module.graph.nodes if n.op == "call_function" and isinstance(walk.node_tags[n], TensorTags)
    ]
    ends = [n for n in nodes if n.name == "linear"]
    under = nodes[nodes.index(ends[0]) + 1 : -1]
    channels = [c for g in analysis.groups for c in g.channels if any(s.tensor == "first.weight" for s in c.slices)]
    assert channels or not exact
    for channel in channels[:4]:
        only_first = Channel(channel.identity, tuple(s for s in channel.slices if s.tensor.startswith("first.")))
        moved = values_with(program, tensors, only_first, masked=False)
        masked, again = (values_with(program, t, channel, masked=True) for t in (tensors, others))
        for node in under:
            tags = walk.node_tags[node]
            assert isinstance(tags, TensorTags)
            carries = tagged_elements(walk, tags, channel.identity)
            moves = moved[node.name] != before[node.name]
            if exact and before[node.name].dtype.is_floating_point:
                assert not (moves & ~carries).any(), f"{node} moves where it has no tag"
            _check_zero_and_constant(walk, tags, channel.identity, masked[node.name], again[node.name])


def _check_zero_and_constant(walk: Walk, tags: TensorTags, channel: int, masked: Tensor, again: Tensor) -> None:
    for axis, (zeroes, constant) in enumerate(zip(tags.zero_when_masked, tags.constant_when_masked, strict=True)):
        for index, (zero, same) in enumerate(zip(zeroes.tolist(), constant.tolist(), strict=True)):
            if channel in walk.sets.channels_in(zero):
                assert not masked.select(axis, index).any()
            if channel in walk.sets.channels_in(same):
                torch.testing.assert_close(masked.select(axis, index), again.select(axis, index))


@pytest.mark.parametrize("name", EXACT)
def test_what_moves_with_a_channel_carries_its_label(name: str) -> None:
    rng = random.Random(name)
    fields, width = rng.randint(3, 5), 2 * rng.randint(2, 4)
    check(EXACT[name](fields, width), fields, width, exact=True)


@pytest.mark.parametrize("name", CONTRACTING)
def test_what_is_said_to_be_zero_or_steady_is(name: str) -> None:
    rng = random.Random(name)
    fields, width = rng.randint(3, 5), 2 * rng.randint(2, 4)
    check(CONTRACTING[name](fields, width), fields, width, exact=False)


@pytest.mark.parametrize("name", [*EXACT, *CONTRACTING])
def test_masked_equals_pruned_for_any_set_of_channels(name: str) -> None:
    rng = random.Random(name)
    fields, width = rng.randint(3, 5), 2 * rng.randint(2, 4)
    operator = (EXACT | CONTRACTING)[name](fields, width)
    check_any_plan(Under(operator, fields, width), torch.randn(3, fields, 4), plans=2)


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: torch.cat(x.split([1, 3, 2], 2), 2),
        lambda x: torch.stack(x.unbind(1), 1),
        lambda x: x.reshape(len(x), -1).reshape(len(x), 3, 6),
        lambda x: x.permute(2, 0, 1).permute(1, 2, 0),
        lambda x: x.flatten(1).unflatten(1, (3, 6)),
        lambda x: x.transpose(1, 2).flatten(1).unflatten(1, (6, 3)).transpose(1, 2),
        lambda x: torch.cat([x[:, :1], x[:, 1:]], 1),
        lambda x: x.unsqueeze(1).squeeze(1),
        lambda x: x.flip(2).flip(2),
        lambda x: x.repeat(1, 2, 1)[:, :3],
        lambda x: x[:, :, torch.tensor([5, 4, 3, 2, 1, 0])][:, :, torch.tensor([5, 4, 3, 2, 1, 0])],
    ],
)
def test_there_and_back_is_the_identity(operator: Operator) -> None:
    program = capture(no_zeros(Under(operator, 3, 6)), (torch.randn(3, 3, 4),))
    walk = propagate_tags(program.module, sample_request_tensors(program.signature, batch=2), {})
    computed = [
        n for n in program.module.graph.nodes if n.op == "call_function" and isinstance(walk.node_tags[n], TensorTags)
    ]
    first, *_, back, flat, _last = computed
    before, after = (
        walk.node_tags[first],
        walk.node_tags[back if flat.target is not torch.ops.aten.cat.default else flat],
    )
    assert isinstance(before, TensorTags)
    assert isinstance(after, TensorTags)
    if after.shape != before.shape:  # the operator vanished, and what is left is the flattening
        return
    for one, other in zip(before.removed_by, after.removed_by, strict=True):
        assert torch.equal(walk.sets.canonical(one), walk.sets.canonical(other))
