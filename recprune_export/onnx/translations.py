"""ONNX translations of operators that the exporter of torch 2.13 does not support, and of custom operators."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20 as op

from recprune_export.program.operator_registry import OPERATORS, Facet


def missing_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the custom translation table for `torch.onnx.export`."""
    return dict(OPERATORS.rules(Facet.ONNX))


def translation_rule(*operators: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that registers a function of onnxscript, with the parameters of an operator, as its ONNX translation."""
    return OPERATORS.register(Facet.ONNX, *operators)


@translation_rule(torch.ops.prims.view_of.default)
def _translate_view(x: Any) -> Any:
    return op.Identity(x)
