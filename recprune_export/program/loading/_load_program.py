"""Load a model of any accepted kind as a `Program`; no pickle runs without the user's permission."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recprune_export.error_text import first_line, summarize_error
from recprune_export.errors import ModelFileError, RecpruneError, UsageError
from recprune_export.memory_limit import fits_in_memory
from recprune_export.program.capture._capture import capture
from recprune_export.program.capture.unsupported_modules import check_supported
from recprune_export.program.capture.unwrap_module import unwrap_module
from recprune_export.program.loading._check_finite import check_finite
from recprune_export.program.loading.detect import detect_model_kind
from recprune_export.program.loading.example_request import example_call
from recprune_export.program.loading.long_tensors_on_meta import LongTensorsOnMeta
from recprune_export.program.loading.model_kind import (
    HUGGING_FACE_CONFIG,
    HUGGING_FACE_WEIGHTS,
    ModelKind,
    find_mlflow_file,
    list_model_files,
)
from recprune_export.program.loading.module_factory import make_module
from recprune_export.program.loading.onnx_graphs.convert_onnx import convert_onnx
from recprune_export.program.loading.saved_graphs.archive import EXTRA, allow_request_classes, check_archive
from recprune_export.program.loading.saved_graphs.free_batch import convert_exported
from recprune_export.program.loading.saved_graphs.torchscript import convert_torchscript, load_torchscript
from recprune_export.program.loading.streamed_weights import assign_weights, must_stream, settle_streamed_tables
from recprune_export.program.loading.transformers_module import load_transformers_module
from recprune_export.program.loading.unlogged import unlogged
from recprune_export.program.loading.unpickle_module import refuse_to_unpickle, unpickle_module
from recprune_export.program.loading.weights.choose_weights import (
    choose_weights,
    load_as_pytorch,
    refuse_different_ties,
)
from recprune_export.program.loading.weights.describe_mismatch import list_some
from recprune_export.program.loading.weights.distributed_checkpoint import LEAST_STREAMED
from recprune_export.program.loading.weights.hyperparameters import find_hyperparameters
from recprune_export.program.loading.weights.match_names import expected_tensors
from recprune_export.program.loading.weights.read_weights import WEIGHT_KINDS, read_weights
from recprune_export.program.mapped_archive import share_stored_weights
from recprune_export.program.program import SIGNATURE_FILE, Program
from recprune_export.program.requests.input_rules import with_bad_ids
from recprune_export.training.mapped_weights import share_equal_tensors

if TYPE_CHECKING:
    from recprune_export.training.checkpoint import Checkpoint

_ACCEPTED = (
    "a checkpoint of `train`, a .pt2 program, an ONNX file, weights (a state dict, safetensors, a distributed checkpoint) with --factory, "
    "a Hugging Face or MLflow folder, or a pickled module with --unsafe-unpickle"
)
_ADVICE = {
    ModelKind.MISSING: "check the path",
    ModelKind.EMPTY: "write it again",
    ModelKind.TRUNCATED_ZIP: "copy or write it again",
    ModelKind.OLD_PROGRAM: "save it again with torch.export.save of torch 2.13",
    ModelKind.ONNX: "give the PyTorch model from which it was exported",
    ModelKind.DATA: "give it with --data",
    ModelKind.BUNDLE: "give its PyTorch program, the file model.pt2 in it",
    ModelKind.TAR: "extract it, and give the model file in it",
    ModelKind.OLD_TORCH_TAR: "if you trust it, open it with torch.load(path, weights_only=False), and save the module's state_dict()",
    ModelKind.UNKNOWN_DICT: "save the module's state_dict()",
}


@dataclass(frozen=True)
class ModelSource:
    """How a model file is opened: the options of `load_program`."""

    factory: str | None = None
    factory_args: Mapping[str, Any] | None = None
    inputs: Path | None = None
    unsafe_unpickle: bool = False
    key: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """The content of a model file: its program, its checkpoint if `train` wrote it, and the kind of file.

    The notes of the program begin with the choices in the file, and the changes of names. `onnx` is the ONNX file, if its
    inputs and outputs are those of the program: the pruned file is compared with it.
    """

    program: Program
    checkpoint: "Checkpoint | None"
    kind: ModelKind
    onnx: Path | None = None


def load_program(
    path: Path,
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    inputs: Path | None = None,
    unsafe_unpickle: bool = False,
    key: str | None = None,
) -> LoadedModel:
    """Load a model file or folder as a program.

    `factory` ("package.module:function") makes the module into which weights are loaded, under the names that fit it
    (`match_names`). It is called with `factory_args`, and for its other parameters with the `hyper_parameters` of those names
    that Lightning stored. `key` chooses one of several state dicts or modules in the file. `inputs` is an `.npz` with an
    example request, for all but programs, checkpoints and most ONNX files. A pickle is executed only with `unsafe_unpickle`.
    The weights of a checkpoint and of a state dict stay in their file (`map_records`).

    Raises `ModelFileError` for a file that is of another kind, damaged, unsafe, does not fit, or holds NaN; `UsageError` for
    a missing or invalid option; `DataError` for invalid `inputs`; `CaptureError` where the module cannot be captured.
    """
    source = ModelSource(factory, factory_args, inputs, unsafe_unpickle, key)
    path = Path(path)
    kind = detect_model_kind(path)
    if kind == ModelKind.MLFLOW:
        file = find_mlflow_file(path)
        if file is None:
            raise ModelFileError(
                f"{path} is an MLflow folder without a PyTorch model: give a folder saved by mlflow.pytorch."
            )
        return _load_file(file, detect_model_kind(file), source)
    return _load_file(path, kind, source)


def _load_file(path: Path, kind: ModelKind, source: ModelSource) -> LoadedModel:
    if kind == ModelKind.CHECKPOINT:
        return _load_checkpoint(path)
    if kind == ModelKind.PROGRAM:
        return _load_exported(path)
    if kind == ModelKind.TORCHSCRIPT and source.factory is None:
        script = load_torchscript(path)
        check_finite(script, path)
        args, kwargs = example_call(script, _require_inputs(path, kind, source.inputs))
        return LoadedModel(convert_torchscript(script, args, kwargs), None, kind)
    if kind == ModelKind.ONNX:
        converted = convert_onnx(path, source.inputs)
        return LoadedModel(converted.program, None, kind, path if converted.same_interface else None)
    module, notes = _load_module(path, kind, source)
    module = unwrap_module(module)
    check_supported(module)
    check_finite(module, path)
    args, kwargs = example_call(module, _require_inputs(path, kind, source.inputs))
    program = settle_streamed_tables(capture(module, args, kwargs))
    return LoadedModel(program.with_notes(notes), None, kind)


def _load_module(path: Path, kind: ModelKind, source: ModelSource) -> tuple[nn.Module, tuple[str, ...]]:
    if source.factory is not None and kind in WEIGHT_KINDS:
        return _load_weights(path, kind, source.factory, source)
    if kind in (ModelKind.PICKLED_MODULE, ModelKind.STATE_DICT) and source.unsafe_unpickle:
        return unpickle_module(path, source.key), ()
    if kind == ModelKind.PICKLED_MODULE:
        raise refuse_to_unpickle(path)
    if kind == ModelKind.HUGGING_FACE:
        return load_transformers_module(path, read_weights(path, kind).content)
    if kind in WEIGHT_KINDS:
        example = "" if source.inputs is not None else ", and an example request with --inputs sample.npz"
        raise UsageError(
            f"{path} is {kind.value}, only weights: give the function that builds the module with --factory "
            f"package.module:function{example}."
        )
    if kind == ModelKind.DIRECTORY and (files := list_model_files(path)):
        raise ModelFileError(f"{path} is a directory: give one of the model files in it, {list_some(files)}.")
    if kind == ModelKind.DIRECTORY and (path / HUGGING_FACE_CONFIG).is_file():
        raise ModelFileError(
            f"{path} has the {HUGGING_FACE_CONFIG} of a Hugging Face folder, but no weights: add {HUGGING_FACE_WEIGHTS[0]}, or its shards "
            "and their index."
        )
    described = "there is nothing" if kind == ModelKind.MISSING else f"it is {kind.value}"
    raise ModelFileError(f"{path} is not a model, but {described}: {_ADVICE.get(kind, f'a model is {_ACCEPTED}')}.")


def _require_inputs(path: Path, kind: ModelKind, inputs: Path | None) -> Path:
    if inputs is None:
        raise UsageError(
            f"{path} is {kind.value}, which does not describe its inputs: give an example request with --inputs sample.npz."
        )
    return inputs


def _load_checkpoint(path: Path) -> LoadedModel:
    from recprune_export.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    module = checkpoint.build()
    check_finite(module, path)
    program = capture(module, (checkpoint.example_request(),))
    signature = with_bad_ids(program.signature, "unknown", checkpoint.encoder.unknown_ids)
    return LoadedModel(program.with_signature(signature), checkpoint, ModelKind.CHECKPOINT)


def _load_weights(path: Path, kind: ModelKind, factory: str, source: ModelSource) -> tuple[nn.Module, tuple[str, ...]]:
    """Make the module of `factory` and load the weights of the file that fit it."""
    weights = read_weights(path, kind)
    streams = must_stream(weights)
    stored = find_hyperparameters(weights.content)
    with LongTensorsOnMeta(LEAST_STREAMED) if streams else nullcontext():
        module, taken = make_module(factory, source.factory_args or {}, stored)
        module = unwrap_module(module)
    notes_on_arguments = _describe_arguments(taken)
    expected = expected_tensors(module)
    try:
        chosen = choose_weights(weights.content, expected, str(path), f"the module of {factory}", source.key)
    except ModelFileError:
        notes = load_as_pytorch(module, weights.content, expected, str(path), source.key)
        if notes is None:
            raise
        return module, (*notes_on_arguments, *notes)
    try:
        if streams and weights.stream is not None:
            fits = fits_in_memory(sum(tensor.nbytes for tensor in chosen.tensors.values()))  # without the optimizer
            state = weights.load(chosen.tensors) if fits else weights.stream(chosen.tensors)
            refuse_different_ties(state, expected, str(path), f"the module of {factory}")
            assign_weights(module, state, expected, str(path))
            return module, (*notes_on_arguments, *chosen.notes, *_describe_precision(module, state))
        state = weights.load(chosen.tensors)
        refuse_different_ties(state, expected, str(path), f"the module of {factory}")
        has_values = not any(tensor.is_meta for tensor in expected.tensors.values())
        # Every name was matched; the rest may be missing.
        module.load_state_dict(state, strict=False, assign=not has_values)
    except ModelFileError:
        raise
    except Exception as error:  # torch raises many unrelated classes for a damaged file
        raise ModelFileError(
            f"{path} is {kind.value}, but damaged ({summarize_error(error)}): write it again."
        ) from error
    share_equal_tensors(module, state)  # a module may change tensors while they are loaded, so they are compared
    return module, (*notes_on_arguments, *chosen.notes, *_describe_precision(module, state))


def _describe_arguments(taken: Sequence[str]) -> tuple[str, ...]:
    """Say which arguments of the factory the file gave."""
    if not taken:
        return ()
    names = ", ".join(taken)
    return (f"The factory gets {names} from 'hyper_parameters' in the file; --factory-args overrides them.",)


def _describe_precision(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[str]:
    """Describe the weights that have fewer bits in the file than in the computation of the module."""
    dtypes = {state[n].dtype for n, p in module.named_parameters() if n in state and state[n].dtype != p.dtype}
    if dtypes:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        yield f"Weights are stored in {names}, unlike the module of the factory; they are converted."


def _load_exported(path: Path) -> LoadedModel:
    program = load_archive(path)
    check_finite(program.module, path)
    return LoadedModel(program, None, ModelKind.PROGRAM)


def load_archive(path: Path) -> Program:
    """Load a `.pt2` program that any tool wrote, after `check_archive` has ensured that no code in it can run.

    Raises `ModelFileError` for an unsafe or damaged file, and `CaptureError` for a program whose batch size cannot be made variable.
    """
    records = check_archive(path)
    try:
        with unlogged():
            if EXTRA + SIGNATURE_FILE in records:
                return Program.load(path)
            with allow_request_classes(path):
                exported = torch.export.load(path)
            share_stored_weights(exported, path)
    except ModelFileError:
        raise
    except Exception as error:  # torch raises many unrelated classes for a graph that it cannot read
        raise ModelFileError(
            f"{path} is a .pt2 program that torch {torch.__version__} cannot read: {first_line(error)}"
        ) from error
    try:
        return convert_exported(exported)
    except RecpruneError:
        raise
    except Exception as error:  # a graph that another tool edited may fail in any operator
        raise ModelFileError(
            f"{path} contains a graph that cannot be run ({summarize_error(error)}): save it again."
        ) from error
