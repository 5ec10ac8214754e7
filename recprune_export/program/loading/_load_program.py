"""Load a model of any accepted kind as a `Program`; no pickle runs without the user's permission."""

import importlib
import inspect
import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.data.npz import MAX_EXAMPLE_BYTES, read_npz
from recprune_export.errors import DataError, ModelFileError, RecpruneError, UsageError
from recprune_export.program.capture._capture import capture, program_from_exported
from recprune_export.program.input_rules import with_bad_ids
from recprune_export.program.loading.archive import EXTRA, allow_request_classes, check_archive
from recprune_export.program.loading.detect import (
    ModelKind,
    detect_model_kind,
    find_state_dict,
    find_unsafe_globals,
    is_legacy_torch_file,
)
from recprune_export.program.mapped_archive import share_stored_weights
from recprune_export.program.program import SIGNATURE_FILE, Program

if TYPE_CHECKING:
    from recprune_export.training.checkpoint import Checkpoint

_CHUNK_SIZE = 1 << 18  # elements of a weight that are checked at a time
_ACCEPTED = (
    "a checkpoint of `train`, a .pt2 program, a state dict with --factory, or a pickled module with --unsafe-unpickle"
)
_POSITIONAL = re.compile(r"(?:arg|arr_)(\d+)")

_ADVICE = {
    ModelKind.MISSING: "check the path",
    ModelKind.EMPTY: "write it again",
    ModelKind.TRUNCATED_ZIP: "copy or write it again",
    ModelKind.OLD_PROGRAM: "save it again with torch.export.save of torch 2.13",
    ModelKind.TORCHSCRIPT: "capture the original module with torch.export.export and save that with torch.export.save",
    ModelKind.SAFETENSORS: "save its tensors as a state dict with torch.save and give --factory",
    ModelKind.ONNX: "give the PyTorch model that it was exported from",
    ModelKind.DATA: "give it with --data",
    ModelKind.BUNDLE: "give its trainable program, the file model.pt2 in it",
    ModelKind.UNKNOWN_DICT: "save the module's state_dict() alone",
}


@dataclass(frozen=True)
class LoadedModel:
    """The content of a model file: its program, its checkpoint where `train` wrote it, and the kind of file."""

    program: Program
    checkpoint: "Checkpoint | None"
    kind: ModelKind


def load_program(
    path: Path,
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    inputs: Path | None = None,
    unsafe_unpickle: bool = False,
) -> LoadedModel:
    """Load a model file as a program.

    `factory` ("package.module:function", called with `factory_args`) makes the module into which a state dict is loaded;
    `inputs` is an `.npz` with an example request, for state dicts and pickled modules. A pickle is executed only with
    `unsafe_unpickle`. The weights of a checkpoint and of a state dict stay in their file (`load_mapped`).

    Raises `ModelFileError` for a file that is of another kind, damaged, unsafe, or holds NaN; `UsageError` for a missing
    or invalid option; `DataError` for invalid `inputs`; `CaptureError` where the module cannot be captured.
    """
    path = Path(path)
    kind = detect_model_kind(path)
    if kind == ModelKind.CHECKPOINT:
        return _from_checkpoint(path)
    if kind == ModelKind.PROGRAM:
        program = load_archive(path)
        check_finite(program.module, path)
        return LoadedModel(program, None, kind)
    if kind == ModelKind.STATE_DICT:
        module = _from_state_dict(path, factory, factory_args or {})
    elif kind == ModelKind.PICKLED_MODULE:
        module = _unpickle(path, unsafe_unpickle)
    else:
        advice = _ADVICE.get(kind, f"a model is {_ACCEPTED}")
        raise ModelFileError(f"{path} is no model, {_describe(kind)}: {advice}.")
    check_finite(module, path)
    if inputs is None:
        raise UsageError(
            f"{path} is {kind.value}, which does not describe its inputs: give an example request with --inputs sample.npz."
        )
    args, kwargs = example_call(module, inputs)
    return LoadedModel(capture(module, args, kwargs), None, kind)


def load_archive(path: Path) -> Program:
    """Load a `.pt2` program that any tool wrote, after `check_archive` has ensured that no code in it can run.

    Raises `ModelFileError` for an unsafe or damaged file, and `CaptureError` for a program with a fixed batch size.
    """
    records = check_archive(path)
    try:
        with _unlogged():
            if EXTRA + SIGNATURE_FILE in records:
                return Program.load(path)
            with allow_request_classes(path):
                exported = torch.export.load(path)
            share_stored_weights(exported, path)
    except ModelFileError:
        raise
    except Exception as error:  # torch raises many unrelated classes for a graph that it cannot read
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFileError(
            f"{path} is a .pt2 program that torch {torch.__version__} cannot read: {reason}"
        ) from error
    try:
        return program_from_exported(exported)
    except RecpruneError:
        raise
    except Exception as error:  # a graph that another tool edited may fail in any operator
        raise ModelFileError(
            f"{path} holds a graph that cannot be run ({_summarize(error)}): save it again."
        ) from error


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from logging tracebacks of an error that is then reported in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check_finite(module: nn.Module, source: Path | str) -> None:
    """Raise `ModelFileError` with the name and position of the first NaN or infinity in the tensors of `module`.

    Buffers may hold minus infinity, as attention masks do.
    """
    from recprune_export.training.checkpoint import check_storage_sizes

    state = module.state_dict(keep_vars=True)
    check_storage_sizes(state, source)
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in state.items():
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            continue
        flat = tensor.detach().reshape(-1)
        for start in range(0, len(flat), _CHUNK_SIZE):
            chunk = flat[start : start + _CHUNK_SIZE]
            bad = ~torch.isfinite(chunk)
            if name not in weights:
                bad &= ~torch.isneginf(chunk)
            if bad.any():
                index = np.unravel_index(start + int(bad.nonzero()[0]), tuple(tensor.shape))
                position = ", ".join(str(int(i)) for i in index)
                raise ModelFileError(
                    f"'{name}' in {source} holds {float(flat[start + int(bad.nonzero()[0])])} at [{position}]: "
                    "repair it or train the model again."
                )


def example_call(module: nn.Module, inputs: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read an example request from an `.npz` and match it to the parameters of `module.forward`.

    Keys that are parameters become keyword arguments; `arg0`, `arg1`, ... (also `arr_0`, as `numpy.savez` names
    them) are positional; otherwise a `forward` of one parameter gets the dict of all arrays. float64 arrays are converted
    to the dtype of the module's parameters.

    Raises `DataError` for a file that holds other than plain arrays or does not fit `forward`.
    """
    arrays = {name: _tensor(module, array) for name, array in _read_arrays(inputs).items()}
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }
    named = {n: p for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    required = [name for name, parameter in named.items() if parameter.default is inspect.Parameter.empty]
    takes_any = len(named) < len(parameters)
    if set(required) <= set(arrays) and (takes_any or set(arrays) <= set(named)):
        return (), arrays
    numbers = {int(match[1]): name for name in arrays if (match := _POSITIONAL.fullmatch(name))}
    if len(numbers) == len(arrays) and len(required) <= len(arrays) and (len(arrays) <= len(named) or not named):
        return tuple(arrays[numbers[i]] for i in sorted(numbers)), {}
    if len(required) == 1 or (not required and len(named) == 1):
        return (arrays,), {}
    raise DataError(
        f"{inputs} holds {sorted(arrays)}, but forward takes {list(named)}: name the arrays after the parameters, or arg0, arg1, ..."
    )


def _describe(kind: ModelKind) -> str:
    return "there is nothing" if kind == ModelKind.MISSING else f"it is {kind.value}"


def _from_checkpoint(path: Path) -> LoadedModel:
    from recprune_export.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    module = checkpoint.build()
    check_finite(module, path)
    program = capture(module, (checkpoint.example_request(),))
    signature = with_bad_ids(program.signature, "unknown", checkpoint.encoder.unknown_ids)
    return LoadedModel(program.with_signature(signature), checkpoint, ModelKind.CHECKPOINT)


def _from_state_dict(path: Path, factory: str | None, factory_args: Mapping[str, Any]) -> nn.Module:
    if factory is None:
        raise UsageError(
            f"{path} is a PyTorch state dict, weights alone: name the function that makes the module with --factory."
        )
    from recprune_export.training.mapped_weights import load_mapped, share_equal_tensors

    module = make_module(factory, factory_args)
    try:
        state = find_state_dict(load_mapped(path))
    except Exception as error:  # torch raises many unrelated classes for a damaged file
        raise ModelFileError(f"{path} is a damaged state dict ({_summarize(error)}): write it again.") from error
    assert state is not None  # `detect_model_kind` found one
    # DistributedDataParallel and torch.compile add a prefix to every name.
    for prefix in ("_orig_mod.", "module."):
        nn.modules.utils.consume_prefix_in_state_dict_if_present(state, prefix)
    faults = _mismatches(module.state_dict(), state)
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ModelFileError(
            f"{path} does not fit the module of {factory}: {'; '.join(faults[:3])}{more}; check --factory and --factory-args."
        )
    module.load_state_dict(state, strict=True)  # a module may change tensors here, so they are compared
    share_equal_tensors(module, state)
    return module


def _mismatches(expected: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    both = [name for name in expected if name in state]
    return [
        *(f"'{n}' is missing" for n in expected if n not in state),
        *(f"'{n}' is not in the module" for n in state if n not in expected),
        *(
            f"'{n}' has shape {list(state[n].shape)} instead of {list(expected[n].shape)}"
            for n in both
            if state[n].shape != expected[n].shape
        ),
    ]


def make_module(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call "package.module:function" with `arguments`; the package is searched in the current directory first.

    Raises `UsageError` for a missing function, and for one that fails or does not return a module.
    """
    module_name, colon, function_name = factory.partition(":")
    if not (colon and module_name and function_name):
        raise UsageError(f"--factory {factory} is not of the form package.module:function.")
    with _current_directory_importable():
        try:
            function: Any = importlib.import_module(module_name)
            for name in function_name.split("."):
                function = getattr(function, name)
        except AttributeError:
            raise UsageError(f"--factory {factory}: the module '{module_name}' has no '{function_name}'.") from None
        except Exception as error:  # the user's own module may raise anything while it is imported
            raise UsageError(
                f"--factory {factory}: '{module_name}' cannot be imported ({_summarize(error)})."
            ) from error
        module = _call(factory, function, arguments)
    if not isinstance(module, nn.Module):
        raise UsageError(f"--factory {factory} returned {type(module).__name__}, not an nn.Module.")
    return module


def _call(factory: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return function(**arguments)
    except Exception as error:  # the user's own function may raise anything
        raise UsageError(
            f"--factory {factory} failed with --factory-args {dict(arguments)}: {_summarize(error)}."
        ) from error


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def _unpickle(path: Path, allowed: bool) -> nn.Module:
    if not allowed:
        classes = find_unsafe_globals(path)
        named = f" ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})" if classes else ""
        raise ModelFileError(
            f"{path} is {ModelKind.PICKLED_MODULE.value}{named}, and opening one runs whatever code it contains: "
            "save model.state_dict() and give --factory, or, if you trust the file, give --unsafe-unpickle."
        )
    with _current_directory_importable():
        try:
            module = _unpickled(path)
        except Exception as error:  # unpickling can call any code
            raise ModelFileError(f"{path} cannot be unpickled: {_summarize(error)}.") from error
    if not isinstance(module, nn.Module):
        raise ModelFileError(
            f"{path} is a pickle of {type(module).__name__}, not of an nn.Module: save the module itself."
        )
    return module


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        plain = file.read(2) != b"PK" and not is_legacy_torch_file(path)
        file.seek(0)
        return pickle.load(file) if plain else torch.load(file, weights_only=False, map_location="cpu")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(path, MAX_EXAMPLE_BYTES)
    if not arrays:
        raise DataError(f"{path} holds no array.")
    return arrays


def _tensor(module: nn.Module, array: np.ndarray) -> Tensor:
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError:
        raise DataError(
            f"The example request has an array of dtype {array.dtype}, which PyTorch does not know."
        ) from None
    if tensor.dtype != torch.float64:
        return tensor
    floats = [p.dtype for p in module.parameters() if p.is_floating_point()]
    return tensor.to(floats[0] if floats else torch.get_default_dtype())


def _summarize(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
