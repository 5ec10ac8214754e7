"""The message for weights that do not fit a module: the names of both, the most similar pairs, and a prefix that would fit."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor
from torch.nn.parameter import is_lazy

from recprune_export.program.loading.weights.match_names import ExpectedTensors
from recprune_export.program.loading.weights.name_tree import WRAPPERS, has_fraction, make_name_tree, tensors_fit
from recprune_export.program.loading.weights.state_dicts import StateDict

_SHOWN = 3
_COMPARED = 2000  # names among which a similar one is searched


def describe_mismatch(state: StateDict, expected: ExpectedTensors, source: str, module: str) -> str:
    """Return one message on the differences between a state dict of `source` and the tensors of `module`."""
    where = f"{source} (under '{state.key}')" if state.key else source
    prefix = find_best_prefix(state.tensors, expected.tensors)
    names = {name.removeprefix(prefix): tensor for name, tensor in state.tensors.items() if name.startswith(prefix)}
    faults = _list_faults(names, expected.tensors, expected.optional)
    shared = sum(name in names for name in expected.tensors)
    without = f" without their prefix '{prefix}'" if prefix else ""
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return (
        f"{where} does not fit {module}: of {len(expected.tensors)} names of the module {shared} are among the file's{without}; "
        f"{'; '.join(faults[:_SHOWN])}{more}. The file's names: {list_some(list(state.tensors))}; the module's: "
        f"{list_some(list(expected.tensors))}. Check --factory and --factory-args."
    )


def find_best_prefix(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return the prefix whose removal makes the most names of a file names of the module; '' if none helps.

    >>> import torch
    >>> find_best_prefix({"net.a": torch.ones(1), "net.b": torch.ones(1)}, {"a": torch.ones(1), "c": torch.ones(1)})
    'net.'
    """

    def count(prefix: str, names: Sequence[str]) -> tuple[int, int]:
        return sum(name.removeprefix(prefix) in expected for name in names), -len(prefix)

    prefixes = [(prefix, tree.list_names()) for prefix, tree in make_name_tree(stored).walk()]
    best, names = max(prefixes, key=lambda pair: count(*pair))
    if count(best, names)[0]:
        return best
    # Even if no name is equal, a prefix of wrappers is not part of the user's names.
    return next((p for p, _ in reversed(prefixes) if p and all(part in WRAPPERS for part in p.split(".")[:-1])), "")


def list_some(names: Iterable[str]) -> str:
    """Return the first names in quotes, and the number of further ones.

    >>> list_some(["a", "b"]), list_some("abcdefg")
    ("'a', 'b'", "'a', 'b', 'c', 'd' and 3 more")
    """
    names = list(names)
    shown = 4 if len(names) > 5 else 5
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(f"'{name}'" for name in names[:shown]) + more


def _list_faults(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: frozenset[str]) -> list[str]:
    shapes = [
        f"'{name}' has {_describe(stored[name])} in the file and {_describe(tensor)} in the module"
        for name, tensor in expected.items()
        if name in stored and not tensors_fit(stored[name], tensor)
    ]
    missing = [name for name in expected if name not in stored and name not in optional]
    others = [name for name in stored if name not in expected]
    pairs = [_describe_missing(name, expected[name], {n: stored[n] for n in others[:_COMPARED]}) for name in missing]
    return [*shapes, *pairs, *(f"'{name}' of the file is not in the module" for name in others)]


def _describe_missing(name: str, tensor: Tensor, others: Mapping[str, Tensor]) -> str:
    """Describe a name that is missing in the file, with the most similar name in the file."""
    fitting = [other for other, stored in others.items() if tensors_fit(stored, tensor)]
    nearest = difflib.get_close_matches(name, fitting or list(others), n=1, cutoff=0.4)
    beside = f", whose nearest name is '{nearest[0]}' {_describe(others[nearest[0]])}" if nearest else ""
    return f"'{name}' {_describe(tensor)} is missing in the file{beside}"


def _describe(tensor: Tensor) -> str:
    if is_lazy(tensor):
        return "(no shape yet)"
    numbers = "" if has_fraction(tensor) else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return f"shape {list(tensor.shape)}{numbers}"
