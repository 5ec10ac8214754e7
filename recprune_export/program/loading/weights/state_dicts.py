"""The state dicts inside the content of a model file, each under the keys that lead to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recprune_export.errors import ModelFileError
from recprune_export.program.loading.weights.inert_objects import InertObject
from recprune_export.program.loading.weights.name_tree import MAX_DEPTH
from recprune_export.program.loading.weights.sharded_tensors import find_whole_tensor, is_sharded

_CONTAINERS = (Mapping, list, tuple, InertObject)
_MAX_ITEMS = 1000  # of a sequence that may hold state dicts
_MAX_LEVELS = 8  # nested mappings
_MAX_MAPPINGS = 100_000  # an optimizer has one for each parameter


@dataclass(frozen=True)
class StateDict:
    """Tensors by name; `key` is the path to them in the file, in the form of `--key`, empty for the whole file.

    `in_object` is true if they are attributes of a pickled object, such as a module.
    """

    key: str
    tensors: dict[str, Tensor]
    in_object: bool = False


def find_state_dicts(content: Any) -> list[StateDict]:
    """Return every mapping of names to tensors in `content`, from the outside in; entries of other kinds are left out.

    >>> import torch
    >>> [d.key for d in find_state_dicts({"epoch": 3, "net": {"w": torch.ones(1)}, "best": {"ema": {"w": torch.ones(1)}}})]
    ['net', 'best.ema']
    """
    return [
        StateDict(key, tensors, in_object)
        for key, entries, in_object in _walk(content)
        if (tensors := _select_tensors(entries))
    ]


def join_state_dicts(content: Any) -> StateDict | None:
    """Return all tensors of `content` under their keys, joined by dots, as one state dict; None if there is none.

    >>> import torch
    >>> list(join_state_dicts({"user": {"weight": torch.ones(1)}, "item": {"weight": torch.ones(1)}}).tensors)
    ['user.weight', 'item.weight']
    """
    joined = {
        f"{state.key}.{name}" if state.key else name: tensor
        for state in find_state_dicts(content)
        for name, tensor in state.tensors.items()
    }
    return StateDict("", joined) if joined else None


def select_key(content: Any, key: str) -> Any:
    """Return the value in `content` under `key`: an entry, a path of keys joined by dots, or the names that begin with it.

    Raises `KeyError` if there is nothing.

    >>> select_key({"state_dict": {"student.weight": 1, "teacher.weight": 2}}, "state_dict.student")
    {'weight': 1}
    """
    entries = view_entries(content)
    if entries is None:
        raise KeyError(key)
    if key in entries:
        return entries[key]
    for name, value in entries.items():
        if key.startswith(f"{name}.") and view_entries(value) is not None:
            try:
                return select_key(value, key[len(name) + 1 :])
            except KeyError:
                continue
    below = {name[len(key) + 1 :]: value for name, value in entries.items() if name.startswith(f"{key}.")}
    if not below:
        raise KeyError(key)
    return below


def view_entries(value: Any) -> dict[str, Any] | None:
    """Return the entries of a mapping, a sequence or an object that was not executed by name; None for other values."""
    if isinstance(value, InertObject):
        state = _view_module(value)
        return {**_number(value.arguments), **value.entries} if state is None else state
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple) and len(value) <= _MAX_ITEMS:
        return _number(value)
    return None


def _number(values: Sequence[Any]) -> dict[str, Any]:
    return {str(index): entry for index, entry in enumerate(values)}


def _view_module(value: InertObject) -> dict[str, Any] | None:
    """Return the state dict of a pickled `nn.Module`, only from its attributes; None for other objects."""
    root = _find_module(value)
    if root is None:
        return None
    state: dict[str, Any] = {}
    level = [("", root)]
    for _ in range(MAX_DEPTH):
        inside: list[tuple[str, InertObject]] = []
        for prefix, module in level:
            transient = module.entries.get("_non_persistent_buffers_set") or ()
            for group in ("_parameters", "_buffers"):
                for name, tensor in (view_entries(module.entries[group]) or {}).items():
                    if isinstance(tensor, Tensor) and not (group == "_buffers" and name in transient):
                        state[f"{prefix}{name}"] = tensor
            for name, child in (view_entries(module.entries["_modules"]) or {}).items():
                inner = _find_module(child)
                if inner is not None:
                    inside.append((f"{prefix}{name}.", inner))
        level = inside
        if len(level) > _MAX_MAPPINGS:
            raise ModelFileError(
                "The file contains a module of more than 100,000 submodules, too many for a recommender: refused."
            )
    return state


def _find_module(value: Any) -> InertObject | None:
    """Return a pickled module; that of `torch.compile` is pickled as a call on the module inside."""
    if not isinstance(value, InertObject):
        return None
    if {"_parameters", "_buffers", "_modules"} <= value.entries.keys():
        return value
    return next((inner for argument in value.arguments[:1] if (inner := _find_module(argument)) is not None), None)


def _walk(content: Any) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield the key and the entries of each mapping in `content` once, from the outside in, and whether an object holds it."""
    level, visited = [("", content, False)], {id(content)}
    for _ in range(_MAX_LEVELS):
        inside: list[tuple[str, Any, bool]] = []
        for path, value, in_object in level:
            entries = view_entries(value)
            if entries is None:
                continue
            in_object |= isinstance(value, InertObject)
            yield path, entries, in_object
            for name, entry in entries.items():
                if isinstance(entry, _CONTAINERS) and id(entry) not in visited and len(visited) < _MAX_MAPPINGS:
                    visited.add(id(entry))
                    inside.append((f"{path}.{name}" if path else name, entry, in_object))
        level = inside


def _select_tensors(entries: dict[str, Any]) -> dict[str, Tensor]:
    whole = {name: find_whole_tensor(entry) if is_sharded(entry) else entry for name, entry in entries.items()}
    return {name: entry for name, entry in whole.items() if isinstance(entry, Tensor)}


def list_mappings(content: Any) -> list[dict[str, Any]]:
    """Return the entries of each mapping in `content`, from the outside in."""
    return [entries for _, entries, _ in _walk(content)]
