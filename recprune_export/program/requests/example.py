"""The example request of a capture: its rows, and the model's outputs for them."""

import inspect
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from recprune_export.error_text import describe_place, summarize_error
from recprune_export.errors import CaptureError
from recprune_export.program.capture.source_lines import find_user_line


def with_unambiguous_batch_size(module: nn.Module, example: Any) -> Any:
    """Repeat rows of the example until their number differs from all of the model's widths.

    `torch.export` treats a batch of one as a constant, and may equate a batch of 16 with a width of 16. A request whose
    rows depend on each other, such as ids with offsets, is returned unchanged.
    """
    widths = {size for tensor in module.state_dict().values() if isinstance(tensor, Tensor) for size in tensor.shape}
    widths |= {size for x in pytree.tree_leaves(example) if isinstance(x, Tensor) for size in x.shape[1:]}
    batch = next(size for size in itertools.count(5) if size not in widths)
    repeated = take_rows(example, torch.arange(batch) % find_batch_size(example))
    try:
        compute_outputs(module, *repeated)
    except Exception:  # any error of the user's code
        return example
    return repeated


def take_rows(example: Any, rows: Tensor) -> Any:
    """Return a request of the rows of `example` at the indices `rows`; tensors without a batch are unchanged."""
    batch = find_batch_size(example)
    return pytree.tree_map(lambda x: x[rows] if isinstance(x, Tensor) and x.ndim and len(x) == batch else x, example)


def find_batch_size(example: Any) -> int:
    """Return the most frequent size of axis 0 among the tensors. Raises `CaptureError` if no tensor has an axis."""
    sizes = Counter(len(x) for x in pytree.tree_leaves(example) if isinstance(x, Tensor) and x.ndim)
    if not sizes:
        raise CaptureError(
            "The example request contains no tensor with a batch axis; give at least one tensor of shape (batch, ...)."
        )
    return sizes.most_common(1)[0][0]


def compute_outputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors of the model's response, flat."""
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(x, Tensor)]


def order_kwargs(module: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords in the order of the parameters of `forward`, which is the order of `torch.export`'s inputs."""
    known = [name for name in inspect.signature(module.forward).parameters if name in kwargs]
    return {name: kwargs[name] for name in (*known, *(name for name in kwargs if name not in known))}


def check_example(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `CaptureError` if the model fails on the example or returns no tensor, or if the example has no batch."""
    find_batch_size((args, dict(kwargs)))
    try:
        with torch.no_grad():
            answer = module(*args, **kwargs)
    except CaptureError:  # an operator of an ONNX file that is not read
        raise
    except Exception as error:  # any error of the user's code
        where = describe_place(find_user_line(error))
        raise CaptureError(f"The model fails on the example request{where}: {summarize_error(error)}") from error
    if isinstance(answer, np.ndarray):
        raise CaptureError(
            "The model returns no tensor, but a NumPy array: remove .numpy() from its forward, or give its inner module instead."
        )


def outputs_match(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether two responses are equal up to rounding."""
    return len(actual) == len(expected) and all(
        a.shape == e.shape and torch.allclose(a.double(), e.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
        for a, e in zip(actual, expected, strict=True)
    )


def half_outputs_match(actual: Sequence[Tensor], expected: Sequence[Tensor], whole: Sequence[Tensor]) -> bool:
    """Return whether answers in float32 are those of a model in half precision, up to the rounding of its layers.

    `whole` are the model's outputs for the whole example, which show the size of each output.
    """
    allowed = 0.1  # relative to the size of an output; bfloat16 rounds by .004 in each of many layers
    return len(actual) == len(expected) and all(
        a.shape == e.shape and (not e.is_floating_point() or largest_difference(a, e, like) <= allowed)
        for a, e, like in zip(actual, expected, whole, strict=True)
    )


def largest_difference(actual: Tensor, expected: Tensor, whole: Tensor) -> float:
    """Return the largest difference of two outputs as a fraction of the largest number in `whole`; infinite where NaN differs."""
    if actual.shape != expected.shape:
        return float("inf")
    a, e = actual.double().flatten(), expected.double().flatten()
    finite = e.isfinite()
    if not torch.equal(finite, a.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = whole.double()[whole.isfinite()].abs().max().clamp_min(1e-12)
    return float((a - e)[finite].abs().max() / largest)
