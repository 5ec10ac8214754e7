"""Which state dict of a file is taken, and what is said where none fits or several do."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from recprune_export.errors import ModelFileError, UsageError
from recprune_export.program.loading.weights import choose_weights
from recprune_export.program.loading.weights.choose_weights import ChosenWeights, load_as_pytorch
from recprune_export.program.loading.weights.match_names import expected_tensors


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 1)


STATE = Ranker().state_dict()
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def choose(content: Any, key: str | None = None) -> ChosenWeights:
    return choose_weights(content, expected_tensors(Ranker()), "m.pt", "the module of shop:make", key)


TRAINING = {
    "epoch": 3,
    "loss": 0.3,
    "optimizer": {"state": {0: {"exp_avg": STATE["head.bias"]}}, "param_groups": [{"lr": 1}]},
}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        *({key: STATE, **TRAINING} for key in ("model", "model_state", "net", "state_dict", "ema", "anything")),
        {"state_dict": prefixed("model.", STATE), "hyper_parameters": {"dim": 4}},
        {"state_dict": {**prefixed("model._orig_mod.", STATE), "auc.preds": torch.ones(3)}},
        {"trainer": {"model": {"weights": prefixed("module.", STATE)}}, **TRAINING},
        {"user": {"weight": STATE["user.weight"]}, "head": {"weight": STATE["head.weight"], "bias": STATE["head.bias"]}},
        (STATE, 3),
        [{"model": STATE}],
        {"n_averaged": torch.tensor(5), **prefixed("module.", STATE)},
        {**STATE, "epoch": 3, "config": {"dim": 4}},
        {"model": STATE, "best": STATE},
        {"model": STATE, "best": dict(STATE)},
    ],
    ids=str,
)  # fmt: skip
def test_the_weights_are_found(content: Any) -> None:
    chosen = choose(content)
    assert {name: id(tensor) for name, tensor in chosen.tensors.items()} == {n: id(t) for n, t in STATE.items()}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"model": STATE, "ema": OTHER}, ("model", "ema")),
        (
            {"state_dict": {**prefixed("model.", STATE), **prefixed("teacher.", OTHER)}},
            ("state_dict.model", "state_dict.teacher"),
        ),
        ({"nets": [STATE, OTHER]}, ("nets.0", "nets.1")),
        ({"a.b": STATE, "c": {"d.e": OTHER}}, ("a.b", "c.d.e")),
    ],
)
def test_of_several_that_fit_one_is_chosen_by_its_key(content: Any, keys: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="several state dicts") as raised:
        choose(content)
    for key in keys:
        assert f"--key {key}" in str(raised.value)
    assert choose(content, keys[0]).tensors["user.weight"] is STATE["user.weight"]
    assert choose(content, keys[1]).tensors["user.weight"] is OTHER["user.weight"]


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


@given(
    keys=st.lists(st.text("abcxyz", min_size=1, max_size=3), min_size=2, max_size=4, unique=True),
    prefixes=st.lists(st.sampled_from(["", "module.", "model._orig_mod."]), min_size=4, max_size=4),
    different=st.booleans(),
)
def test_of_equal_copies_either_is_taken_and_it_is_said(keys: list[str], prefixes: list[str], different: bool) -> None:
    content = {key: prefixed(prefix, copied(STATE)) for key, prefix in zip(keys, prefixes, strict=False)}
    if different:
        content["other"] = copied(OTHER)
        with pytest.raises(UsageError, match="several state dicts"):
            choose(content)
        return
    chosen = choose({**content, **TRAINING})
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in chosen.tensors.items())
    said = " ".join(chosen.notes)
    assert all(f"'{key}" in said for key in keys)
    assert "the same values" in said


def test_copies_of_another_precision_are_no_equal_copies() -> None:
    with pytest.raises(UsageError, match="several state dicts"):
        choose({"model": STATE, "half": {name: tensor.half() for name, tensor in STATE.items()}})


@pytest.mark.parametrize(
    "prefix", ["", "_fsdp_wrapped_module.", "module._fsdp_wrapped_module.head._fsdp_wrapped_module."]
)
@pytest.mark.parametrize("name", ["_flat_param", "flat_param", "flat_param_0"])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, **TRAINING}])
def test_flat_parameters_of_fsdp_are_refused_with_the_cure(prefix: str, name: str, wrap: Any) -> None:
    content = wrap({prefix + name: torch.ones(45), "head.bias": STATE["head.bias"]})
    with pytest.raises(ModelFileError, match=rf"{name}' flattened by FSDP.*FULL_STATE_DICT"):
        choose(content)


def test_a_module_may_have_a_parameter_of_that_name() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat_param = nn.Parameter(torch.ones(3))

    state = Flat().state_dict()
    assert choose_weights(state, expected_tensors(Flat()), "m.pt", "the module of shop:make", None).tensors == state


def test_a_key_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"--key best: m.pt contains nothing under this key; it has 'model', 'ema'"):
        choose({"model": STATE, "ema": OTHER}, "best")
    with pytest.raises(UsageError, match="without keys"):
        choose(STATE, "best")


def test_what_was_done_is_said() -> None:
    chosen = choose({"state_dict": {**prefixed("model._orig_mod.", STATE), "loss.weight": torch.ones(3)}})
    said = " ".join(chosen.notes)
    assert "'state_dict'" in said
    assert "'model.'" in said
    assert "'_orig_mod.'" in said
    assert "'loss.weight'" in said
    assert choose(STATE).notes == ()


def test_names_that_do_not_fit_are_shown_beside_those_of_the_module() -> None:
    renamed = {name.replace("user", "users").replace("head", "top"): tensor for name, tensor in STATE.items()}
    with pytest.raises(ModelFileError) as raised:
        choose({"model": renamed})
    message = str(raised.value)
    for said in ("m.pt (under 'model')", "'user.weight' shape [10, 4] is missing", "whose nearest name is 'users.weight'",
                 "'top.weight', 'top.bias'", "'user.weight', 'head.weight', 'head.bias'", "the module of shop:make"):  # fmt: skip
        assert said in message
    assert "\n" not in message


def test_a_shape_that_differs_is_shown_under_the_prefix_that_fits() -> None:
    wide = {**STATE, "head.weight": torch.ones(1, 8)}
    with pytest.raises(
        ModelFileError, match=r"2 are among the file's without their prefix 'module\.'|3 are among"
    ) as raised:
        choose(prefixed("module.", wide))
    assert "without their prefix 'module.'" in str(raised.value)
    assert "'head.weight' has shape [1, 8] in the file and shape [1, 4] in the module" in str(raised.value)


def test_a_part_of_another_network_is_not_taken_without_a_word() -> None:
    content = {**prefixed("ranker.", STATE), "tower.weight": torch.ones(3), "tower.bias": torch.ones(3)}
    with pytest.raises(ModelFileError, match=r"--key ranker") as raised:
        choose(content)
    assert "'tower.weight', 'tower.bias'" in str(raised.value)
    assert choose(content, "ranker").tensors["user.weight"] is STATE["user.weight"]


def test_codes_of_a_quantized_file_are_no_weights() -> None:
    codes = {**STATE, "user.weight": torch.ones(10, 4, dtype=torch.int8)}
    with pytest.raises(ModelFileError, match="of int8 in the file"):
        choose(codes)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [], None, 3, {"model": {}}])
def test_a_file_without_tensors_is_refused(content: Any) -> None:
    with pytest.raises(ModelFileError, match="contains no tensors"):
        choose(content)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item, self.out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.out.weight = self.item.weight


def test_two_values_for_one_tensor_are_refused() -> None:
    state = Tied().state_dict()
    expected = expected_tensors(Tied())
    equal = {"item.weight": state["item.weight"], "out.weight": state["item.weight"].clone()}
    assert choose_weights(equal, expected, "m.pt", "the module of shop:make", None).tensors.keys() == equal.keys()
    different = {**equal, "out.weight": equal["out.weight"] + 1}
    with pytest.raises(
        ModelFileError, match=r"'item.weight' and 'out.weight' are one tensor in the module of shop:make"
    ):
        choose_weights(different, expected, "m.pt", "the module of shop:make", None)
    assert not load_as_pytorch(Tied(), different, expected, "m.pt", None)
