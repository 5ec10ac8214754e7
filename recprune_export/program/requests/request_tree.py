"""The request of a module as a tree: its tensors, flat, each under a clear name, and the way back to the module's arguments.

Any class that PyTorch's pytree knows may hold the tensors, such as a KeyedJaggedTensor or a TensorDict. An unknown dataclass is
registered. `FlatModule` takes only the tensors, so that classes are constructed only from tensors, because many classes check their
arguments.
"""

import dataclasses
import inspect
from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program.capture.unwrap_module import forward_parameters

_PLAIN = frozenset({tuple, list, dict})


@dataclass(frozen=True)
class RequestTree:
    """An example request: `leaves` in the order of `spec`; `paths[n]` is the path to leaf n, which begins with the name of the
    parameter."""

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    paths: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "RequestTree":
        """Flatten the arguments of a call of `module`."""
        keyed, spec = pytree.tree_flatten_with_path((args, dict(kwargs)))
        parameters = _list_positional(module)
        paths = []
        for (_, first, *rest), _ in keyed:
            index = getattr(first, "idx", None)
            name = key_name(first) if index is None else parameters.get(index, f"input_{index}")
            paths.append((name, *(key_name(key) for key in rest)))
        return cls(spec, tuple(leaf for _, leaf in keyed), tuple(paths))

    @property
    def tensors(self) -> list[int]:
        """The indices of the leaves that are tensors."""
        return [number for number, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]

    @property
    def has_classes(self) -> bool:
        """Whether anything but tuples, lists and dicts holds the tensors."""
        return any(
            node.type is not None and node.type not in _PLAIN and not pytree.is_namedtuple_class(node.type)
            for node in list_nodes(self.spec)
        )

    def arguments(self, tensors: Mapping[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call with other tensors in place of the leaves of these numbers."""
        leaves = [tensors.get(number, leaf) for number, leaf in enumerate(self.leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs

    def name(self, number: int) -> str:
        """Return the whole path of a leaf as one word."""
        return "_".join(part.strip("_") or part for part in self.paths[number])


def _list_positional(module: nn.Module) -> dict[int, str]:
    """Return the names of the parameters of `forward` by position, `name_0` for the first of `*name`."""
    names: dict[int, str] = {}
    for position, parameter in enumerate(forward_parameters(module).values()):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            break
        names[position] = parameter.name
    return names


def takes_any_keyword(module: nn.Module, kwargs: Mapping[str, Any]) -> bool:
    """Return whether one of `kwargs` is not a parameter of `forward`, but is passed to its `**name`."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return len(named) < len(parameters) and not named.issuperset(kwargs)


def key_name(key: Any) -> str:
    """Return one step of a path as text."""
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def list_nodes(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    """Return every node of a tree that is no leaf."""
    children = [node for child in spec.children() for node in list_nodes(child)]
    return [] if spec.is_leaf() else [spec, *children]


def register_dataclasses(request: Any) -> None:
    """Register the dataclasses of a request, at any depth, whose fields PyTorch would not treat as tensors.

    Raises `CaptureError` for another class that holds tensors and is not registered.
    """
    refuse_other_layouts(request)
    seen: set[type] = set()
    while True:
        kinds = {type(leaf) for leaf in pytree.tree_leaves(request) if _holds_tensors(leaf)}
        for kind in sorted(kinds, key=lambda kind: kind.__name__):
            if issubclass(kind, UserDict) and kind not in seen:
                _register_mapping(kind)
                continue
            if not dataclasses.is_dataclass(kind) or kind in seen:
                raise CaptureError(
                    f"The request contains a {kind.__name__}, a class that PyTorch does not flatten to tensors: register it with "
                    "torch.utils._pytree.register_pytree_node, make it a dataclass, or pass its tensors."
                )
            torch.export.register_dataclass(kind)
        if not kinds:
            return
        seen |= kinds


def _register_mapping(kind: type[UserDict[Any, Any]]) -> None:
    """Register a class such as the `BatchEncoding` of Hugging Face's tokenizers, whose tensors lie in its dict `data`."""

    def flatten(mapping: UserDict[Any, Any]) -> tuple[list[Any], Any]:
        return list(mapping.data.values()), tuple(mapping.data)

    def flatten_with_keys(mapping: UserDict[Any, Any]) -> tuple[list[tuple[Any, Any]], Any]:
        return [(pytree.MappingKey(key), value) for key, value in mapping.data.items()], tuple(mapping.data)

    def unflatten(values: Any, keys: Any) -> Any:
        return kind(dict(zip(keys, values, strict=True)))

    pytree.register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=flatten_with_keys,
    )


def refuse_other_layouts(request: Any) -> None:
    """Raise `CaptureError` for a nested or sparse tensor, which torch.export and ONNX do not take."""
    for tensor in pytree.tree_leaves(request):
        if isinstance(tensor, Tensor) and tensor.is_nested:
            raise CaptureError(
                "The request contains a nested tensor, which neither torch.export nor ONNX supports: use a "
                "padded matrix (x.to_padded_tensor(0)), or the elements of all rows with their lengths."
            )
        if isinstance(tensor, Tensor) and tensor.layout != torch.strided:
            raise CaptureError(
                "The request contains a sparse tensor, which ONNX does not support: give its indices as ids with an EmbeddingBag, "
                "or the dense tensor (x.to_dense())."
            )


def _holds_tensors(leaf: Any) -> bool:
    if isinstance(leaf, Tensor | nn.Module | type) or not hasattr(leaf, "__dict__"):
        return False
    return any(isinstance(x, Tensor) for x in pytree.tree_leaves(list(vars(leaf).values())))


class FlatModule(nn.Module):
    """A module that takes the tensors of a request, in order; its weights have the names that they have in `module`."""

    def __init__(self, module: nn.Module, tree: RequestTree) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.training = module.training
        self._called = (module,)  # in a tuple, so that it is no submodule
        self._tree = tree

    def leaves(self, tensors: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the leaves of the tree by number."""
        return dict(zip(self._tree.tensors, tensors, strict=True))

    def forward(self, *tensors: Tensor) -> Any:
        """Call the module."""
        args, kwargs = self._tree.arguments(self.leaves(tensors))
        return self._called[0](*args, **kwargs)
