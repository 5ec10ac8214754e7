"""The module of a Hugging Face folder: the class that `config.json` names, from the library transformers and nowhere else.

Code in the folder is never executed (`trust_remote_code`), and nothing is downloaded. Before a weight is allocated the
module is built on the meta device, where it must not become larger than the weights in the folder.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from recprune_export.error_text import summarize_error
from recprune_export.errors import ModelFileError, UsageError
from recprune_export.program.loading.model_kind import HUGGING_FACE_CONFIG
from recprune_export.program.loading.weights.describe_mismatch import list_some
from recprune_export.program.loading.weights.state_dicts import join_state_dicts
from recprune_export.progress import quiet

# Tensors that a module may have in addition to its stored weights, such as masks and positions.
_MORE_TENSORS, _MORE_NUMBERS = 1000, 1 << 26
_MAX_CONFIG_BYTES = 1 << 24


def load_transformers_module(folder: Path, content: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module of a Hugging Face folder in eval mode and float32, and notes; `content` are the stored weights.

    Raises `UsageError` if transformers is not installed or does not have the class, and `ModelFileError` for a
    configuration that does not describe the weights.
    """
    config = _read_config(folder)
    try:
        import transformers  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UsageError(
            f"{folder} is a Hugging Face folder, whose module is built by the library transformers: install it "
            "with `pip install transformers`, or give the function that builds the module with --factory."
        ) from None
    make, options = _find_class(transformers, folder, config)
    state = join_state_dicts(content)
    stored = {} if state is None else state.tensors
    _check_size(folder, make, options, stored)
    with _silence(transformers):
        try:
            module, report = make.from_pretrained(
                str(folder), config=options, local_files_only=True, trust_remote_code=False, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # the library raises many unrelated classes
            raise ModelFileError(
                f"{folder} cannot be read by transformers {transformers.__version__} ({summarize_error(error)}): "
                "download it again, or give the function that builds the module with --factory."
            ) from error
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise ModelFileError(
            f"{folder} lacks weights of {make.__name__}: {list_some(sorted(map(str, lacking)))}; download the whole model."
        )
    return module.eval(), tuple(_describe(make.__name__, report, stored))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / HUGGING_FACE_CONFIG
    if not path.is_file():
        raise UsageError(
            f"{folder} contains weights without a {HUGGING_FACE_CONFIG}: give the function that builds the module with --factory."
        )
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size < _MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelFileError(f"{path} is not a JSON object: download it again.")
    return config


def _find_class(transformers: Any, folder: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    """Return the class of the module, and its configuration. Raises `UsageError` for one outside transformers."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    if not isinstance(config.get("model_type"), str):
        raise UsageError(
            f"{folder / HUGGING_FACE_CONFIG} contains no model_type of transformers: name the function that makes the module with "
            "--factory."
        )
    if config.get("quantization_config"):
        raise UsageError(
            f"{folder} contains quantized weights: give the trained float32 model; --quantize quantizes its weights."
        )
    if (kernel := _find_kernel(config)) is not None:
        raise UsageError(
            f"{folder / HUGGING_FACE_CONFIG} requires the kernel '{kernel[:60]}', code from a hub, which is never executed: remove "
            "the entry, or give the function that builds the module with --factory."
        )
    with _silence(transformers):
        try:
            options = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the library raises many unrelated classes
            raise UsageError(
                f"{folder} is of the type '{config['model_type'][:60]}', which transformers {transformers.__version__} does not "
                f"read ({summarize_error(error)[:200]}); code in the folder is never executed: give the function that "
                "builds the module with --factory."
            ) from error
    options.use_cache = False  # a request is complete: it does not continue an earlier request
    known = getattr(transformers, name, None) if name else None
    if known is None and name is None:
        known = transformers.AutoModel._model_mapping.get(type(options))
    if not (isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)):
        raise UsageError(
            f"{folder} is of the class {str(name)[:60]}, which transformers {transformers.__version__} does not have; code in the "
            "folder is never executed: give the function that builds the module with --factory."
        )
    return known, options


def _find_kernel(config: dict[str, Any]) -> str | None:
    """Return the implementation of a layer that a configuration takes from a hub ("owner/name"), None if there is none."""
    level = [config]
    for _ in range(4):
        for name, value in [entry for values in level for entry in values.items()]:
            named = value if isinstance(value, dict) else {"": value}
            for text in named.values() if "implementation" in name else ():
                if isinstance(text, str) and not text.replace("_", "").isalnum():
                    return text
        level = [value for values in level for value in values.values() if isinstance(value, dict)]
    return None


class _TooLarge(Exception):
    pass


def _check_size(folder: Path, make: Any, options: Any, stored: dict[str, Tensor]) -> None:
    """Raise `ModelFileError` if the configuration describes a much larger module than the folder holds weights of."""
    numbers = sum(tensor.numel() for tensor in stored.values())
    try:
        with torch.device("meta"), _limit_parameters(4 * len(stored) + _MORE_TENSORS, 4 * numbers + _MORE_NUMBERS):
            make(options)
    except _TooLarge:
        raise ModelFileError(
            f"{folder / HUGGING_FACE_CONFIG} describes a much larger module than the {numbers:,} numbers in the folder: download "
            "both again."
        ) from None
    except Exception as error:  # a constructor may raise any error for values of other types
        raise ModelFileError(
            f"{folder / HUGGING_FACE_CONFIG} does not describe a {make.__name__} ({summarize_error(error)[:200]}): download it again."
        ) from error


@contextlib.contextmanager
def _limit_parameters(tensors: int, numbers: int) -> Iterator[None]:
    """Raise `_TooLarge` inside the block as soon as modules get more tensors or numbers."""
    registered = [0, 0]

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        registered[0] += 1
        registered[1] += tensor.numel() if tensor is not None else 0
        if registered[0] > tensors or registered[1] > numbers:
            raise _TooLarge

    hooks = (
        module_hooks.register_module_parameter_registration_hook(count),
        module_hooks.register_module_buffer_registration_hook(count),
        module_hooks.register_module_module_registration_hook(lambda module, name, child: count(module, name, None)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _silence(transformers: Any) -> Iterator[None]:
    """Keep the library's warnings and progress bars off the screen inside the block."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _describe(name: str, report: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[str]:
    dtypes = {t.dtype for t in stored.values() if t.is_floating_point()} - {torch.float32}
    yield f"The module is {name} of transformers, according to {HUGGING_FACE_CONFIG}."
    if dtypes:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        yield f"The weights are stored in {names}; the module computes in float32."
    if report["unexpected_keys"]:
        yield f"Tensors of the folder are not used: {list_some(sorted(report['unexpected_keys']))}."
