"""Operators that the exporter of torch 2.13 does not know, in ONNX."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20 as op

from recprune_export.program.operator_registry import OPERATORS, Facet


def missing_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return a function of ONNX operators for each operator, as `torch.onnx.export` takes them."""
    return dict(OPERATORS.rules(Facet.ONNX))


@OPERATORS.register(Facet.ONNX, torch.ops.prims.view_of.default)
def _view_of(x: Any) -> Any:
    return op.Identity(x)
