"""Operators that the exporter of torch 2.13 does not know, in ONNX."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20 as op


def missing_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return a function of ONNX operators for each operator, as `torch.onnx.export` takes them."""
    return {torch.ops.prims.view_of.default: _view_of}


def _view_of(x: Any) -> Any:
    return op.Identity(x)
