"""Wrapped modules keep the names of their inputs and weights; modules that cannot be captured get one sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from recprune_export.api import load_model
from recprune_export.errors import CaptureError, ModelFileError, UsageError
from recprune_export.program import ModelKind
from recprune_export.program.capture import capture
from recprune_export.program.capture.unwrap_module import unwrap_module
from tests.program.loading.weight_files import REQUEST, Scorer, make

EXAMPLE = tuple(torch.tensor(array) for array in REQUEST.values())


class PassesOn(nn.Module):
    """What many training modules are: a forward that takes anything."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return torch.sigmoid(self.network(*args, **kwargs))


class Decorated(Scorer):
    @torch.compile  # type: ignore[misc]
    def forward(self, user: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return super().forward(user, x)


def compiled_in_place() -> nn.Module:
    module = make()
    module.compile()
    return module


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: torch.compile(make()),
    "compiled in place": compiled_in_place,
    "compiled forward": Decorated,
    "parallel": lambda: nn.DataParallel(make()),
    "averaged": lambda: AveragedModel(make()),
    "several": lambda: torch.compile(nn.DataParallel(AveragedModel(make()))),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("by_name", [False, True])
def test_a_wrapped_module_keeps_its_names(name: str, by_name: bool) -> None:
    example = dict(zip(REQUEST, EXAMPLE, strict=True)) if by_name else EXAMPLE
    program = load_model(WRAPPED[name](), example, {}).program
    assert [spec.name for spec in program.signature.inputs] == list(REQUEST)
    assert set(program.parameters()) == set(make().state_dict())


def refuse_to_compile(*_: Any) -> Any:
    raise AssertionError("something is compiled")


@pytest.mark.parametrize("what", ["the module", "a part", "a part in place"])
def test_nothing_is_compiled(what: str) -> None:
    module = PassesOn(make())
    if what == "the module":
        module.compile(backend=refuse_to_compile)
    elif what == "a part":
        module.network = torch.compile(module.network, backend=refuse_to_compile)  # type: ignore[assignment]
    else:
        module.network.compile(backend=refuse_to_compile)
    program = load_model(module, EXAMPLE, {}).program
    torch.testing.assert_close(program.module(*EXAMPLE)[0], make()(*EXAMPLE).sigmoid())


def test_a_forward_that_takes_anything_has_the_names_of_the_module_inside() -> None:
    program = load_model(PassesOn(torch.compile(make())), EXAMPLE, {}).program
    assert [spec.name for spec in program.signature.inputs] == list(REQUEST)
    torch.testing.assert_close(program.module(*EXAMPLE)[0], make()(*EXAMPLE).sigmoid())


@pytest.mark.slow
def test_a_distributed_module_keeps_its_names(tmp_path: Path) -> None:
    code = f"""
import torch, torch.distributed as dist
from recprune_export.api import load_model
from tests.program.loading.weight_files import make
dist.init_process_group("gloo", init_method="file://{tmp_path}/sync", rank=0, world_size=1)
module = torch.nn.parallel.DistributedDataParallel(torch.compile(make()))
print([spec.name for spec in load_model(module, (torch.tensor([1, 2, 3]), torch.ones(3, 2)), {{}}).program.signature.inputs])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(list(REQUEST))


def test_a_module_that_is_no_wrapper_is_not_changed() -> None:
    module = PassesOn(make())
    module.module = make()  # type: ignore[assignment]
    assert unwrap_module(module) is module


def quantized() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), torch.ao.nn.quantized.Linear(2, 2))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "meta": (lambda: make().to("meta"), "'table.weight' is on the meta device, without values"),
    "quantized": (quantized, "'1' is already quantized"),
    "lazy": (lazy, "'0.weight' has no shape yet"),
    "no forward": (lambda: nn.ModuleDict({"ranker": make()}), "ModuleDict defines no forward: .*'ranker'"),
    "a part in TorchScript": (lambda: PassesOn(torch.jit.script(make())), "'network' is TorchScript"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_modules_get_one_sentence(name: str) -> None:
    module, said = UNSUPPORTED[name]
    for open_module in (lambda m: load_model(m, EXAMPLE, {}), lambda m: capture(m, EXAMPLE)):
        with pytest.raises(CaptureError, match=said) as raised:
            open_module(module())
        assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_in_memory_is_converted_or_gets_the_sentence_of_its_file() -> None:
    loaded = load_model(torch.jit.trace(make(), EXAMPLE), EXAMPLE, {})
    assert loaded.kind is ModelKind.TORCHSCRIPT
    assert [spec.name for spec in loaded.program.signature.inputs] == list(REQUEST)
    with pytest.raises(CaptureError, match=r"TorchScript.*torch\.export\.export"):
        capture(torch.jit.script(make()), EXAMPLE)


@pytest.mark.parametrize("model", [{"a": torch.ones(1)}, make, 3])
def test_what_is_no_model_gets_one_sentence(model: Any) -> None:
    with pytest.raises((UsageError, ModelFileError), match="is not a model: give an nn"):
        load_model(model, EXAMPLE, {})
