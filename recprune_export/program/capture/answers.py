"""The outputs of a module as plain containers of tensors, without values that a graph cannot return.

`torch.export` returns tensors in dicts, lists, tuples and classes that are registered as pytrees. The answer of a Hugging Face model
contains, with its scores, a cache of keys and values, whose class is not registered: the cache is for a later call of the same module,
and a file cannot contain it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

_LEAVES = (Tensor, int, float, complex, str, bytes, type(None))


def _is_cache(value: Any) -> bool:
    """Return whether a value is a cache of transformers, which may be registered as a pytree."""
    return _is_cache_class(type(value))


def _is_cache_class(kind: Any) -> bool:
    return any(c.__name__ == "Cache" and c.__module__.startswith("transformers.") for c in getattr(kind, "__mro__", ()))


def find_cached_leaves(spec: Any) -> list[bool]:
    """Return whether each leaf of the output of an exported program is part of a cache of transformers."""
    if spec.is_leaf():
        return [False]
    leaves = [leaf for child in spec.children() for leaf in find_cached_leaves(child)]
    return [True] * len(leaves) if _is_cache_class(spec.type) else leaves


def _is_leaf(value: Any) -> bool:
    return isinstance(value, _LEAVES)


def _entries(value: Any) -> list[tuple[str, Any]] | None:
    """Return the named parts of a container that can be written as a dict; None for any other value."""
    if _is_cache(value):
        return None
    if isinstance(value, Mapping):
        return [(str(name), part) for name, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES:
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    return None


def _is_plain(value: Any) -> bool:
    """Return whether `torch.export` returns a value unchanged."""
    if _is_leaf(value) or type(value) in (dict, list, tuple):
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return all(map(_is_plain, parts))
    if _is_cache(value):
        return False
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return all(map(_is_plain, value))
    if type(value) not in pytree.SUPPORTED_NODES or isinstance(value, Mapping):
        return False
    return all(map(_is_plain, pytree.tree_flatten(value, is_leaf=lambda part: part is not value)[0]))


def _to_plain(value: Any, path: str, left_out: dict[str, str]) -> Any:
    """Return `value` as dicts and lists; values that cannot be returned become None, with their class in `left_out`."""
    entries = _entries(value)
    if entries is not None:
        return {name: _to_plain(part, f"{path}.{name}" if path else name, left_out) for name, part in entries}
    if isinstance(value, list | tuple):
        return [_to_plain(part, f"{path}.{i}" if path else str(i), left_out) for i, part in enumerate(value)]
    if _is_leaf(value) or (type(value) in pytree.SUPPORTED_NODES and _is_plain(value)):
        return value
    left_out[path or "output"] = type(value).__name__
    return None


@contextmanager
def return_plain_answers(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    """Make `module` return plain containers inside the block, if its answer to the example request has others.

    Yields the parts of the answer that are left out, with their classes.
    """
    left_out: dict[str, str] = {}
    with torch.no_grad():
        answer = module(*args, **kwargs)
    if _is_plain(answer):
        yield left_out
        return
    _to_plain(answer, "", left_out)
    hook = module.register_forward_hook(lambda _module, _args, result: _to_plain(result, "", {}))
    try:
        yield left_out
    finally:
        hook.remove()
