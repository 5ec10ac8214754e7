"""Names that wrappers changed are found again, whatever the wrappers and the network; other names are refused."""

from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.optim.swa_utils import AveragedModel

from recprune_export.errors import ModelFileError
from recprune_export.program.loading.weights.match_names import expected_tensors, match_names
from recprune_export.program.loading.weights.name_tree import WRAPPERS

COMPONENTS = ["user", "item", "tower", "module", "model", "net", "_orig_mod", "0", "weight"]


class Block(nn.Module):
    """A module with children and tensors of any names."""

    def __init__(self, children: Mapping[str, nn.Module], tensors: Mapping[str, int]) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        for name, size in tensors.items():
            self.register_parameter(name, nn.Parameter(torch.randn(size)))

    def forward(self, x: Tensor) -> Tensor:
        return x


def blocks() -> st.SearchStrategy[Block]:
    """Random networks of up to three levels, with wrappers' names among their own."""
    tensors = st.dictionaries(st.sampled_from(["weight", "bias", "table"]), st.integers(1, 3), max_size=3)
    names = st.sampled_from(COMPONENTS[:-1])
    leaves = st.builds(Block, st.just({}), tensors.filter(bool))
    return st.recursive(
        leaves,
        lambda inner: st.builds(Block, st.dictionaries(names, inner, min_size=1, max_size=3), tensors),
        max_leaves=6,
    )


def wrap(module: nn.Module, draw: st.DataObject) -> nn.Module:
    """Wrap a module and any of its parts in what training code uses."""
    for name, child in list(module.named_children()):
        module._modules[name] = wrap(child, draw)
    for _ in range(draw.draw(st.sampled_from([0, 0, 0, 1, 2]))):
        compile_once = [] if isinstance(module, OptimizedModule) else [torch.compile]
        wrapper = draw.draw(st.sampled_from([nn.DataParallel, Holder, *compile_once]))
        module = wrapper(module)
    return module


class Holder(nn.Module):
    """What a LightningModule does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network


@settings(max_examples=150)
@given(network=blocks(), draw=st.data())
def test_a_wrapped_network_fits_itself(network: Block, draw: st.DataObject) -> None:
    expected = expected_tensors(network)
    tensors = {id(tensor): name for name, tensor in expected.tensors.items()}
    wrapped = wrap(network, draw)
    if draw.draw(st.booleans()):
        wrapped = AveragedModel(wrapped, use_buffers=False)  # a copy, with a counter
        tensors = {}
    state = wrapped.state_dict(keep_vars=True)
    (match,) = match_names(state, expected)
    assert not match.left_out
    assert set(match.alignment.names) == set(expected.tensors)
    for name, tensor in match.select(state).items():
        assert tensors.get(id(tensor), name) == name
        assert torch.equal(tensor, expected.tensors[name])


@settings(max_examples=100)
@given(network=blocks(), prefix=st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=3))
def test_the_same_names_need_no_change_and_prefixes_are_removed(network: Block, prefix: list[str]) -> None:
    expected = expected_tensors(network)
    state = {".".join([*prefix, name]): tensor for name, tensor in network.state_dict().items()}
    (match,) = match_names(state, expected)
    assert {
        name: stored.removeprefix("".join(f"{p}." for p in prefix)) for name, stored in match.alignment.names.items()
    } == {name: name for name in expected.tensors}
    if not prefix:
        assert match.prefix == ""
        assert not match.alignment.removed | match.alignment.added


@settings(max_examples=100)
@given(network=blocks(), draw=st.data())
def test_another_shape_or_name_never_fits(network: Block, draw: st.DataObject) -> None:
    expected = expected_tensors(network)
    state = dict(network.state_dict())
    name = draw.draw(st.sampled_from(sorted(state)))
    match draw.draw(st.sampled_from(["shape", "missing", "integers"])):
        case "shape":
            state[name] = torch.zeros(7)
        case "missing":
            del state[name]
        case "integers":
            state[name] = state[name].to(torch.int8)
    assert not any(
        match.certain for match in match_names(state, expected) if len(match.alignment.names) == len(expected.tensors)
    )


def test_tensors_outside_of_a_usual_prefix_are_left_out() -> None:
    state = {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1), "loss.scale": torch.ones(1)}
    (match,) = match_names(state, expected_tensors(nn.Linear(2, 1)))
    assert (match.prefix, match.left_out, match.certain) == ("model.", ("loss.scale",), True)


@pytest.mark.parametrize(("others", "certain"), [({}, True), ({"loss.scale": torch.ones(1)}, False)])
def test_any_prefix_is_removed_where_nothing_else_is_in_the_file(others: dict[str, Tensor], certain: bool) -> None:
    state = {"recommender.weight": torch.ones(1, 2), "recommender.bias": torch.ones(1), **others}
    (match,) = match_names(state, expected_tensors(nn.Linear(2, 1)))
    assert (match.prefix, match.certain) == ("recommender.", certain)


def test_a_prefix_of_the_module_is_added() -> None:
    (match,) = match_names(nn.Linear(2, 1).state_dict(), expected_tensors(Holder(nn.Linear(2, 1))))
    assert match.alignment.names == {"model.weight": "weight", "model.bias": "bias"}
    assert match.alignment.added == {"model."}


def test_tied_tensors_and_counts_of_batches_may_be_missing_but_not_all_of_a_tie() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)
            self.norm = nn.BatchNorm1d(2)
            self.head = nn.Linear(2, 3, bias=False)
            self.head.weight = self.table.weight

    state = Tied().state_dict()
    del state["norm.num_batches_tracked"]
    expected = expected_tensors(Tied())
    for name in ("table.weight", "head.weight"):
        assert match_names({n: t for n, t in state.items() if n != name}, expected)
    assert not match_names({n: t for n, t in state.items() if "norm" in n}, expected)


def test_names_of_any_depth_are_refused_in_a_sentence() -> None:
    with pytest.raises(ModelFileError, match="components"):
        match_names({"model." * 5000 + "weight": torch.ones(1)}, expected_tensors(nn.Linear(2, 1)))
    deep = {"model." * 98 + "weight": torch.ones(1, 2), "model." * 98 + "bias": torch.ones(1)}
    assert match_names(deep, expected_tensors(nn.Linear(2, 1)))
