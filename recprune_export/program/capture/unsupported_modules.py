"""Modules that cannot be captured because of their type: one sentence each, before any other attempt."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from recprune_export.errors import CaptureError
from recprune_export.program.streamed_tables.streamed_table import StreamedTable

TORCHSCRIPT_ADVICE = "capture the original module with torch.export.export and save the result with torch.export.save"
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes.")


def check_supported(module: nn.Module) -> None:
    """Raise `CaptureError` for a TorchScript, quantized, lazy or sharded module, and for one without values."""
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            f"{type(module).__name__} is TorchScript, without the source of a module: {TORCHSCRIPT_ADVICE}."
        )
    if _lacks_forward(module):
        raise CaptureError(
            f"{type(module).__name__} defines no forward: give the submodule that processes requests"
            f"{_list_children(module)}."
        )
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise CaptureError(f"'{path}' is TorchScript, which torch.export cannot read: give the original module.")
        if type(child).__module__.startswith(_QUANTIZED):
            raise CaptureError(
                f"'{path or type(child).__name__}' is already quantized ({type(child).__name__}): give the "
                "trained float32 model; --quantize quantizes its weights."
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        _check_tensor(name, tensor)


def _lacks_forward(module: nn.Module) -> bool:
    """Return whether `forward` is the one of the base class, which only raises an error."""
    forward = type(module).forward
    base = getattr(forward, "__module__", "") in ("lightning.pytorch.core.module", "pytorch_lightning.core.module")
    return (forward is nn.Module.forward or base) and "forward" not in vars(module)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise CaptureError(
            f"'{name}' has no shape yet: call the lazy module once on a request, or load its state dict."
        )
    if tensor.is_meta:
        raise CaptureError(
            f"'{name}' is on the meta device, without values: load the weights first, for example with "
            "load_state_dict(state, assign=True)."
        )
    if tensor.is_quantized:
        raise CaptureError(f"'{name}' is already quantized ({tensor.dtype}): give the trained float32 model.")
    if type(tensor).__name__ == "DTensor":
        raise CaptureError(
            f"'{name}' is sharded (DTensor): replace it by its full_tensor(), or load a whole state dict."
        )
    if not isinstance(tensor, StreamedTable) and type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise CaptureError(
            f"'{name}' is a {type(tensor).__name__}, not a plain tensor: give the trained float32 model."
        )


def _list_children(module: nn.Module) -> str:
    names = [name for name, _ in module.named_children()]
    return f" ({', '.join(repr(name) for name in names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""
