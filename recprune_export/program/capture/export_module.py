"""Calls of `torch.export` in the modes that capture most models, and explanations of its errors."""

import builtins
import contextlib
import importlib
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, UnsupportedOperatorException
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import transformer

from recprune_export.errors import CaptureError
from recprune_export.program.capture.packed_sequences import pad_packed_sequences
from recprune_export.program.capture.source_lines import NOT_THE_USERS, find_user_line
from recprune_export.program.capture.split_batch import SplitBatchMode
from recprune_export.program.program import make_batch_dim, make_dynamic_shapes
from recprune_export.program.requests.example import compute_outputs, find_batch_size, outputs_match, take_rows
from recprune_export.program.signature import Axis

_UNFLATTEN: Any = importlib.import_module("torch.export.unflatten")  # torch.export.unflatten itself is a function
_NO_FAKE = re.compile(r"no fake impl registered for <CustomOpDef\(([^)]+)\)>")
_WITHIN = re.compile(r"batch = Dim\('batch', (?:min=\d+, )?max=(\d+)\)|guard math\.ceil\(L\S+ / (\d+)\) == 1")


def export_module(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shapes: Sequence[Sequence[Axis]] | None = None,
) -> torch.export.ExportedProgram:
    """Export `module` with the batch, axis 0 of the example's tensors, symbolic.

    `shapes` are those of `args` if more sizes vary; each such size has a name.

    Raises `CaptureError` with the line of the model's source at which `torch.export` failed, and the change to make.
    """
    batch = find_batch_size((args, kwargs))
    symbol = make_batch_dim()
    named = None if shapes is None else make_dynamic_shapes(shapes)

    def dynamic(x: Any, symbol: Any) -> Any:
        return {0: symbol} if isinstance(x, Tensor) and x.ndim and len(x) == batch else None

    lines: list[list[str]] = []
    root = _ModelWrapper(module) if _shadows_graph_module(module) else module

    def export(strict: bool, deferred: bool = False, within: Any = None) -> torch.export.ExportedProgram:
        sizes = (
            pytree.tree_map(lambda x: dynamic(x, within or symbol), _by_parameter(root, args, kwargs))
            if named is None
            else named
        )
        with (
            silence_export(),
            disable_attention_fastpath(),
            pad_packed_sequences(),
            _trace_data_as_detach(),
            _skip_causal_mask_detection(),
            SplitBatchMode(),
            _record_specialized_lines() as fixed,
            skip_slow_bookkeeping(),
            torch.compiler.set_stance("default")
            if strict
            else contextlib.nullcontext(),  # strict mode is a compilation
        ):
            lines.append(fixed)
            return torch.export.export(
                root,
                args,
                kwargs,
                dynamic_shapes=sizes,
                strict=strict,
                prefer_deferred_runtime_asserts_over_guards=deferred,
            )

    try:
        return export(strict=False, deferred=named is not None)
    except Exception as error:  # torch.export raises many unrelated classes for the same cause
        if named is not None:
            with contextlib.suppress(Exception):
                return _reject_constant_inputs(export(strict=True, deferred=True))
            where = lines[0][0] if _fixes_batch(str(error)) and lines[0] else find_user_line(error)
            raise CaptureError(_explain(error, where)) from error
        # In strict mode torch.export is slower and supports less, but traces len(x) as a symbolic size.
        with contextlib.suppress(Exception):
            return _reject_constant_inputs(export(strict=True))
        # Facts that it cannot prove for every batch, such as that 9·B is no multiple of 2·B, become assertions in the graph.
        with contextlib.suppress(Exception):
            return _check_on_batches(export(strict=False, deferred=True), (args, kwargs))
        # A model that processes a large batch in chunks is captured for one chunk, if the outputs are the same.
        with contextlib.suppress(Exception), _trace_len():
            rows = _find_chunk_rows(export)
            return _check_larger_batches(
                export(strict=False, within=torch.export.Dim("batch", max=rows)), module, (args, kwargs), rows
            )
        fixes = _fixes_batch(str(error)) and not _reads_values(str(error))
        where = lines[0][0] if fixes and lines[0] else find_user_line(error)
        raise CaptureError(_explain(error, where)) from error


@contextlib.contextmanager
def run_uncompiled() -> Iterator[None]:
    """Run modules and functions that `torch.compile` wraps, or `module.compile()` changes, as they were, inside the block.

    Compiling takes minutes, and `torch.export` cannot trace the result.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def _trace_len() -> Iterator[None]:
    """Replace `len(x)` of a tensor, whose result has to be an int, by `x.shape[0]` inside the block."""
    original = builtins.len

    def symbolic_len(of: Any, /) -> Any:
        return of.shape[0] if isinstance(of, Tensor) and of.ndim else original(of)

    builtins.len = symbolic_len
    try:
        yield
    finally:
        builtins.len = original


@contextlib.contextmanager
def _trace_data_as_detach() -> Iterator[None]:
    """Replace `x.data`, which torch.export does not trace, by `x.detach()` inside the block."""
    original = torch.Tensor.data
    torch.Tensor.data = property(Tensor.detach, original.__set__)  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        del torch.Tensor.data  # the original attribute is inherited


@contextlib.contextmanager
def _skip_causal_mask_detection() -> Iterator[None]:
    """Keep `nn.TransformerEncoder` and similar modules from detecting causal masks inside the block.

    The detection is a hint for faster kernels and depends on values, which torch.export refuses; the mask always applies.
    """
    original = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = original


def _reject_constant_inputs(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return `exported` if no tensor of the example became a constant. Raises `CaptureError` otherwise."""
    if any(isinstance(constant, FakeTensor) for constant in exported.constants.values()):
        raise CaptureError("torch.export treats a tensor of the request as a constant.")
    return exported


def _check_on_batches(exported: torch.export.ExportedProgram, example: Any) -> torch.export.ExportedProgram:
    """Return `exported` if its assertions hold for batches of several sizes; raise the failed assertion otherwise."""
    module = exported.module()
    for rows in (1, 2, 3, 4, 7, 64, 300):
        args, kwargs = take_rows(example, torch.arange(rows) % find_batch_size(example))
        with torch.no_grad():
            module(*args, **kwargs)
    return exported


def _find_chunk_rows(export: Callable[..., Any]) -> int:
    """Return the largest batch for which `export` takes one path. Raises `CaptureError` if `torch.export` names none."""
    try:
        export(strict=False)
    except Exception as error:
        return _read_chunk_rows(str(error))
    raise CaptureError("The model takes one path for batches of all sizes.")


def _read_chunk_rows(message: str) -> int:
    """Return the largest batch for which a model takes one path. Raises `CaptureError` if `torch.export` names none."""
    max_chunk_rows = 4096  # rows in one chunk of a model that processes a large batch in chunks
    match = _WITHIN.search(message)
    rows = int(match[1] or match[2]) if match else 0
    if not 0 < rows <= max_chunk_rows:
        raise CaptureError("The model takes one path for batches of all sizes, or none.")
    return rows


def _check_larger_batches(
    exported: torch.export.ExportedProgram, module: nn.Module, example: Any, rows: int
) -> torch.export.ExportedProgram:
    """Return `exported` if it equals `module` on batches larger than the captured one; raise `CaptureError` otherwise."""
    captured = exported.module(check_guards=False)
    assert isinstance(captured, fx.GraphModule)
    captured = fx.GraphModule(captured, captured.graph)  # without the hook that checks the number of rows
    for size in (rows + 1, 2 * rows + 3):
        args, kwargs = take_rows(example, torch.arange(size) % find_batch_size(example))
        if not outputs_match(compute_outputs(captured, args, kwargs), compute_outputs(module, args, kwargs)):
            raise CaptureError("Larger batches are answered in another way.")
    return exported


@contextlib.contextmanager
def _record_specialized_lines() -> Iterator[list[str]]:
    """Collect the lines of the user's code at which `torch.export` specializes the batch to the example's size."""
    lines: list[str] = []
    original = ShapeEnv._set_replacement

    def noting(self: ShapeEnv, symbol: Any, target: Any, message: str) -> None:
        if target.is_number:
            frames = [f for f in traceback.extract_stack() if not f.filename.startswith(NOT_THE_USERS)]
            lines.extend(f"{frame.filename}, line {frame.lineno}" for frame in frames[-1:])
        original(self, symbol, target, message)

    ShapeEnv._set_replacement = noting  # type: ignore[method-assign, assignment]
    try:
        yield lines
    finally:
        ShapeEnv._set_replacement = original  # type: ignore[method-assign]


class _ModelWrapper(nn.Module):
    """A wrapper, so that an attribute of the model named `graph` is not mistaken for the captured module's graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _shadows_graph_module(module: nn.Module) -> bool:
    names = {*module._parameters, *module._buffers, *module._modules}
    return any(hasattr(fx.GraphModule, name) for name in names)


@contextlib.contextmanager
def disable_attention_fastpath() -> Iterator[None]:
    """Make `nn.TransformerEncoder` and similar modules use the operators of training inside the block.

    In inference mode they may use a kernel that returns zero at padded positions, and NaN for rows of padding only; the
    channel analysis does not support it.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def skip_slow_bookkeeping() -> Iterator[None]:
    """Make `torch.export` and `ExportedProgram.module` faster for graphs of many lookups inside the block.

    The cache of shapes costs more than it saves: each column `ids[:, i]` is a view with a separate offset, so neither the column nor the
    lookup by it is in the cache, and writing an entry computes each result a second time. The test for repeated calls of a submodule, a
    regular expression for each pair of siblings, becomes a comparison of strings. Both are private names of PyTorch; with a release
    without them, the export is just slower.
    """
    with contextlib.ExitStack() as stack:
        if hasattr(torch._dynamo.config, "fake_tensor_cache_enabled"):
            stack.enter_context(torch._dynamo.config.patch(fake_tensor_cache_enabled=False))
        if hasattr(_UNFLATTEN, "_is_call_name"):
            stack.callback(setattr, _UNFLATTEN, "_is_call_name", _UNFLATTEN._is_call_name)
            _UNFLATTEN._is_call_name = _is_call_name
        yield


def _is_call_name(call_name: str, base: str) -> bool:
    """Return whether `call_name` is `base`, or `base@n` for another call of the same module."""
    if not call_name.startswith(base):
        return False
    rest = call_name[len(base) :]
    return not rest or (rest[0] == "@" and rest[1:].isdecimal())


@contextlib.contextmanager
def silence_export() -> Iterator[None]:
    """Suppress the logs and warnings of torch.export."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _fixes_batch(text: str) -> bool:
    return (
        "pecialized" in text
        or "Constraints violated (batch)" in text
        or "marked batch as dynamic" in text
        or "inferred to be a constant" in text
    )


def _by_parameter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Bind a call to the parameters of `forward`, as `torch.export` requires for its dynamic shapes."""
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _explain(error: Exception, line: str) -> str:
    text = str(error)
    where = f" at {line}" if line else ""
    first = _first_reason(text) or type(error).__name__
    if _reads_values(text):
        return (
            f"The control flow of the model depends on the values of a request{where}: replace a branch by "
            "torch.where, a selection of rows "
            f"by a mask, and packed sequences by padded ones ({first})."
        )
    if (within := _WITHIN.search(text)) is not None:
        return (
            f"The model handles batches of more than {within[1] or within[2]} rows in another way than smaller batches{where}, and a graph "
            f"contains only one: let each output row depend only on its input row ({first})."
        )
    if _fixes_batch(text):
        return (
            f"The model fixes the batch size{where}, so it cannot process other batches: use x.size(0) instead of a "
            f"number, and no Python loop over rows, such as over .tolist() ({first})."
        )
    if "nested" in text and ("fx.symbolic_trace" in text or "NestedTensor" in text):
        return (
            f"The model builds a nested tensor{where}, which ONNX does not support: pad the rows and mask them, or reduce the "
            "elements of each row with nn.EmbeddingBag, torch.segment_reduce or index_add."
        )
    if (operator := _without_fake_implementation(error)) is not None:
        return (
            f"The operator {operator}{where} belongs to another library and does not define the shape of its result: "
            "register it with torch.library.register_fake, or use PyTorch operators."
        )
    if ".numpy()" in text or "tolist" in text or type(error).__module__.startswith("numpy"):
        return (
            f"The model leaves PyTorch{where}for NumPy or plain Python, which a graph cannot "
            f"contain: compute this part before the request, or use tensors ({first})."
        )
    return f"torch.export cannot capture the model{where}: {first}"


def _without_fake_implementation(error: BaseException) -> str | None:
    """Return the operator of another library that has no implementation for fake tensors; None for other errors."""
    if isinstance(error, UnsupportedOperatorException):
        return str(error.func._schema.name) if isinstance(error.func, torch._ops.OpOverload) else str(error.func)
    found = _NO_FAKE.search(str(error))
    return None if found is None else found[1]


def _first_reason(text: str) -> str:
    """Return the first informative line: for guards on the batch the guard, not the headline."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    guards = (line.partition("generated guard ")[2].rstrip(".") for line in lines if "generated guard " in line)
    return next(guards, "") or next(iter(lines), "")


def _reads_values(text: str) -> bool:
    return "data-dependent" in text.lower() or "unbacked" in text.lower()
