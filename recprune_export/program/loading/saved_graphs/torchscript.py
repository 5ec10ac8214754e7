"""TorchScript, converted by PyTorch's converter (`TS2EPConverter`) after a check that its code can only compute.

A TorchScript archive holds code in a subset of Python, which PyTorch compiles and runs in a separate interpreter. That interpreter has
operators that read and write files, runs `__setstate__` while loading, and reads as many numbers of a storage as are declared. So an
archive is refused unless its code uses only operators on tensors, and its storages have the declared sizes.
"""

import ast
import contextlib
import logging
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recprune_export.error_text import summarize_error
from recprune_export.errors import CaptureError, ModelFileError
from recprune_export.program.capture._capture import capture
from recprune_export.program.capture.unsupported_modules import TORCHSCRIPT_ADVICE
from recprune_export.program.capture.unwrap_module import forward_parameters
from recprune_export.program.loading.saved_graphs.free_batch import make_graph_module
from recprune_export.program.loading.weights.inert_unpickler import InertPickleError
from recprune_export.program.loading.weights.torch_files import is_torch_zip, read_archive_record
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.program.requests.example import compute_outputs, outputs_match
from recprune_export.program.requests.jagged_inputs import has_jagged_inputs

_MAX_CODE_BYTES = 1 << 24
_CODE_ROOTS = frozenset({"torch", "ops", "CONSTANTS", "__torch__"})
# aten operators that read or write files, or set global state of the process.
_FORBIDDEN = frozenset(
    {"save", "load", "from_file", "classes", "manual_seed", "set_grad_enabled", "jit", "package", "_C"}
)
_PRIM_OPERATORS = frozenset(
    "NumToTensor data type device dtype layout shape itemsize requires_grad min max abs unchecked_cast "  # noqa: SIM905
    "unchecked_unwrap_optional TupleIndex TupleUnpack RaiseException isinstance tolist profile".split()
)


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Load a TorchScript archive in eval mode.

    Raises `ModelFileError` for one that is damaged, or whose code does more than compute with tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(path, archive)
            for name in archive.namelist():
                if name.endswith(".py"):
                    _check_code(path, archive, name)
        for record, folder in (("data.pkl", "data"), ("constants.pkl", "constants")):
            read_archive_record(path, record, folder)
        with _silence():
            module = torch.jit.load(str(path), map_location="cpu")
    except ModelFileError:
        raise
    except InertPickleError as error:
        raise ModelFileError(f"{path} is refused: {error}.") from error
    except Exception as error:  # zipfile, ast and torch raise many unrelated classes
        raise ModelFileError(
            f"{path} is a damaged TorchScript archive ({summarize_error(error)}): write it again."
        ) from error
    return module.eval()


def convert_torchscript(module: torch.jit.ScriptModule, args: Sequence[Any], kwargs: dict[str, Any]) -> Program:
    """Convert TorchScript to a program with PyTorch's converter, with a note.

    Raises `CaptureError` if the converter fails, or if the answers of the program differ.
    """
    from torch._export.converter import TS2EPConverter

    names = list(forward_parameters(module))[: len(args) + len(kwargs)]
    positional = (*args, *(kwargs[name] for name in names if name in kwargs))
    try:
        with _silence(), torch.no_grad():
            exported = TS2EPConverter(module, tuple(positional)).convert()
            graph_module = make_graph_module(exported)
            _restore_parameters(graph_module, module)
            program = capture(graph_module, tuple(positional))
    except Exception as error:  # the converter raises many unrelated classes
        reason = str(error).rstrip(".") if isinstance(error, CaptureError) else summarize_error(error)
        raise CaptureError(
            f"PyTorch's converter cannot convert this TorchScript to a program ({reason[:300]}): {TORCHSCRIPT_ADVICE}."
        ) from error
    if has_jagged_inputs(program.signature):
        raise CaptureError(
            f"TorchScript is not converted where rows have different numbers of elements: {TORCHSCRIPT_ADVICE}."
        )
    program = _with_input_names(program, names)
    for rows in (1, 7):
        request = sample_request_tensors(program.signature, rows)
        with torch.no_grad():
            answers = program.module(*request)
        try:
            expected = compute_outputs(module, request, {})
        except Exception as error:  # the interpreter raises torch.jit.Error and others
            raise CaptureError(
                f"The TorchScript fails for {rows} rows ({summarize_error(error)}): {TORCHSCRIPT_ADVICE}."
            ) from error
        if not outputs_match(answers, expected):
            raise CaptureError(
                f"The outputs of the converted program differ from those of the TorchScript: {TORCHSCRIPT_ADVICE}."
            )
    return program.with_notes(("The TorchScript was converted to a program by PyTorch's converter.",))


def _restore_parameters(converted: nn.Module, module: torch.jit.ScriptModule) -> None:
    """Restore the parameters that the converter turned into buffers."""
    for name, _ in module.named_parameters():
        path, _, last = name.rpartition(".")
        with contextlib.suppress(AttributeError):  # an unused parameter is not there
            parent = converted.get_submodule(path)
            buffer = parent._buffers.pop(last, None)
            if buffer is not None:
                parent.register_parameter(last, nn.Parameter(buffer))


def _with_input_names(program: Program, names: Sequence[str]) -> Program:
    inputs = program.signature.inputs
    if len(inputs) != len(names):
        return program
    renamed = tuple(replace(spec, name=name) for spec, name in zip(inputs, names, strict=True))
    return program.with_signature(replace(program.signature, inputs=renamed))


def _check_records(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise `ModelFileError` for an archive that another reader may read differently, or that unpacks to far more."""
    # The only records that PyTorch compresses.
    code = [entry for entry in archive.infolist() if "/code/" in entry.filename]
    plain = is_torch_zip([entry for entry in archive.infolist() if entry not in code], path.stat().st_size)
    names = [entry.partition("/")[2] for entry in archive.namelist()]
    read_by_torch = torch._C.PyTorchFileReader(str(path)).get_all_records()
    if not plain or len({name.lower() for name in names}) != len(names) or sorted(names) != sorted(read_by_torch):
        raise ModelFileError(f"{path} is refused: it is a zip archive not written by PyTorch.")
    if sum(entry.file_size for entry in code) > _MAX_CODE_BYTES:
        raise ModelFileError(f"{path} is refused: it contains more code than expected of a model.")


def _check_code(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Raise `ModelFileError` if a file of code could do more than compute with tensors."""
    for node in ast.walk(ast.parse(archive.read(name))):
        refused = ""
        if isinstance(node, ast.FunctionDef) and node.name in ("__setstate__", "__getstate__"):
            refused = f"{node.name}, which would run while it is loaded"
        elif isinstance(node, ast.Attribute) and (names := _list_attributes(node)) and not _is_harmless(names):
            refused = ".".join(names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            refused = "an import"
        if refused:
            raise ModelFileError(
                f"{path} is refused, since its code may do more than compute with tensors: {name} has {refused}. If you trust "
                f"it, {TORCHSCRIPT_ADVICE}."
            )


def _list_attributes(node: ast.Attribute) -> list[str]:
    """Return the names of `torch.nn.relu` as a list; empty for attributes of values."""
    names: list[str] = []
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        value = value.value
    return [value.id, *reversed(names)] if isinstance(value, ast.Name) and value.id in _CODE_ROOTS else []


def _is_harmless(names: Sequence[str]) -> bool:
    """Return whether an operator or type only computes.

    >>> _is_harmless(["torch", "linear"]), _is_harmless(["torch", "save"]), _is_harmless(["ops", "mine", "write"])
    (True, False, False)
    """
    root, *inner = names
    if root == "ops":
        return inner[0] == "prim" and (len(inner) == 1 or inner[1] in _PRIM_OPERATORS or inner[1].startswith("is_"))
    if root == "__torch__":
        return "classes" not in inner
    return root == "CONSTANTS" or inner[0] not in _FORBIDDEN


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress the deprecation warnings and the logs of the converter inside the block."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
