"""The single state dict of a file that matches a module, with the changes of its names; or the reason why none or several match."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recprune_export.errors import ModelFileError, UsageError
from recprune_export.program.loading.weights.describe_mismatch import describe_mismatch, list_some
from recprune_export.program.loading.weights.match_names import ExpectedTensors, NameMatch, match_names
from recprune_export.program.loading.weights.name_tree import tensors_fit
from recprune_export.program.loading.weights.sharded_tensors import refuse_flat_parameters, refuse_shards
from recprune_export.program.loading.weights.state_dicts import (
    StateDict,
    find_state_dicts,
    join_state_dicts,
    list_mappings,
    select_key,
)
from recprune_export.program.streamed_tables.streamed_table import StreamedTable


@dataclass(frozen=True)
class ChosenWeights:
    """Tensors under the names of a module, and a sentence on each change that was needed to find them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    state: StateDict
    match: NameMatch

    @property
    def key(self) -> str:
        """The value of `--key` that chooses these names."""
        return ".".join(part for part in (self.state.key, self.match.prefix.rstrip(".")) if part)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.match.select(self.state.tensors)


def choose_weights(content: Any, expected: ExpectedTensors, source: str, module: str, key: str | None) -> ChosenWeights:
    """Return the weights in `content`, the content of the file `source`, that fit the module that `module` names.

    Raises `ModelFileError` if no state dict fits, and `UsageError` if several do and `key` selects none, or if no entry has that key.
    """
    if key is not None:
        content = _select(content, key, source)
    states = find_state_dicts(content)
    if not states:
        _refuse_sharded(content, source)
        raise ModelFileError(
            f"{source} contains no tensors{f' under {key!r}' if key else ''}: save the module's state_dict()."
        )
    candidates = _find_candidates(states, expected)
    joined = join_state_dicts(content)
    if not candidates and joined is not None:
        candidates = _find_candidates([joined], expected)
    certain = [candidate for candidate in candidates if candidate.match.certain]
    if not certain:
        _refuse_sharded(content, source)
        raise ModelFileError(_explain(states, joined, candidates, expected, source, module))
    different, equal = _drop_equal_copies(_drop_copies(candidates))
    if len(different) > 1:
        raise UsageError(
            f"{source} contains several state dicts that fit {module}: choose one with {_list_keys([c.key for c in different])}."
        )
    tensors = certain[0].tensors
    if not any(tensor.is_meta for tensor in tensors.values()):  # otherwise the caller compares them after reading them
        refuse_different_ties(tensors, expected, source, module)
    others = [c.key or "the outermost dict" for c in (different[0], *equal) if equal and c is not certain[0]]
    copies = f"{list_some(others)} contains the same values." if others else ""
    return ChosenWeights(tensors, tuple(note for note in (*_describe(certain[0], key), copies) if note))


def _refuse_sharded(content: Any, source: str) -> None:
    for entries in list_mappings(content):
        refuse_flat_parameters(entries, source)
        refuse_shards(entries, source)


def refuse_different_ties(tensors: Mapping[str, Tensor], expected: ExpectedTensors, source: str, module: str) -> None:
    """Raise `ModelFileError` if a file has several values for one tensor of the module."""
    for tie in expected.ties:
        _refuse_different([name for name in tensors if name in tie], tensors, source, module)


def _refuse_different(tied: Sequence[str], tensors: Mapping[str, Tensor], source: str, module: str) -> None:
    first, *others = tied
    for name in others:
        one, other = tensors[first], tensors[name]
        if _locate(one) != _locate(other) and not (one.shape == other.shape and torch.equal(one, other.to(one.dtype))):
            raise ModelFileError(
                f"'{first}' and '{name}' are one tensor in {module}, but have different values in {source}: let the factory "
                "create two tensors, as in training."
            )


def load_as_pytorch(
    module: nn.Module, content: Any, expected: ExpectedTensors, source: str, key: str | None
) -> tuple[str, ...] | None:
    """Load a state dict with other names that a PyTorch layer converts (`weight_norm`); return notes, None if there is none.

    Raises `UsageError` if there are several, and `key` selects none.
    """
    loaded: list[StateDict] = []
    for state in find_state_dicts(content if key is None else _select(content, key, source)):
        known = state.tensors.keys() & expected.tensors.keys()
        if not known or len(known) == len(expected.tensors):
            continue  # not a name is another
        if not all(tensors_fit(state.tensors[name], expected.tensors[name]) for name in known):
            continue
        if any(_share_tensors(state.tensors, other.tensors) for other in loaded):
            continue
        with suppress(RuntimeError):
            module.load_state_dict(state.tensors, strict=True)
            loaded.append(state)
    if len(loaded) > 1:
        raise UsageError(
            f"{source} contains several state dicts that PyTorch converts for the module: choose one with "
            f"{_list_keys([state.key for state in loaded])}."
        )
    if not loaded:
        return None
    where = (f"The weights under '{loaded[0].key}' are used.",) if loaded[0].key and key is None else ()
    return (*where, "The names are those of an older version of a layer, which PyTorch converts.")


def _list_keys(keys: Sequence[str]) -> str:
    """Return the options that choose one of several state dicts; the outermost one has no key.

    >>> _list_keys(["model", "ema"]), _list_keys(["", "ema"])
    ('--key model or --key ema', '--key ema, or save the outermost one in a separate file')
    """
    named = " or ".join(f"--key {key}" for key in keys[:5] if key)
    return named if all(keys) else f"{named}, or save the outermost one in a separate file"


def _select(content: Any, key: str, source: str) -> Any:
    try:
        return select_key(content, key)
    except KeyError:
        keys = [state.key for state in find_state_dicts(content) if state.key]
        known = f"it has {list_some(keys)}" if keys else "it is a single state dict, without keys"
        raise UsageError(f"--key {key}: {source} contains nothing under this key; {known}.") from None


def _find_candidates(states: Sequence[StateDict], expected: ExpectedTensors) -> list[_Candidate]:
    return [_Candidate(state, match) for state in states for match in match_names(state.tensors, expected)]


def _drop_copies(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the candidates without copies of earlier ones: a file can contain a network under two names."""
    different: list[_Candidate] = []
    for candidate in candidates:
        if not any(_share_tensors(candidate.tensors, other.tensors) for other in different):
            different.append(candidate)
    return different


def _drop_equal_copies(candidates: Sequence[_Candidate]) -> tuple[list[_Candidate], list[_Candidate]]:
    """Return the candidates whose values differ from those of earlier ones, and the others: an average can equal its model."""
    different: list[_Candidate] = []
    equal: list[_Candidate] = []
    for candidate in candidates:
        same = any(_equal_tensors(candidate.tensors, other.tensors) for other in different)
        (equal if same else different).append(candidate)
    return different, equal


def _equal_tensors(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    """Return whether names, dtypes and values are the same; False for tensors whose numbers were not read."""
    if some.keys() != others.keys() or any(t.is_meta for t in (*some.values(), *others.values())):
        return False
    return all(t.dtype == others[n].dtype and torch.equal(t, others[n]) for n, t in some.items())


def _share_tensors(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return all(
        name in others and (tensor is others[name] or _locate(tensor) == _locate(others[name]))
        for name, tensor in some.items()
    )


def _locate(tensor: Tensor) -> tuple[object, ...]:
    stored = not tensor.is_meta and tensor.layout == _STRIDED and not isinstance(tensor, StreamedTable)
    address = tensor.data_ptr() if stored else id(tensor)
    return address, tuple(tensor.shape), tensor.dtype


_STRIDED = Tensor().layout


def _describe(candidate: _Candidate, key: str | None) -> tuple[str, ...]:
    match, alignment = candidate.match, candidate.match.alignment
    notes = []
    if candidate.state.key and key is None:
        notes.append(f"The weights under '{candidate.state.key}' are used.")
    if match.prefix:
        notes.append(f"The prefix '{match.prefix}' of the names is removed.")
    if alignment.removed:
        notes.append(f"{list_some(sorted(alignment.removed))} in the names, from wrappers, is removed.")
    if alignment.added:
        notes.append(f"{list_some(sorted(alignment.added))} is added to the names, as in the module.")
    if match.left_out:
        notes.append(f"Tensors outside '{match.prefix}' are not used: {list_some(match.left_out)}.")
    return tuple(notes)


def _explain(
    states: Sequence[StateDict],
    joined: StateDict | None,
    uncertain: Sequence[_Candidate],
    expected: ExpectedTensors,
    source: str,
    module: str,
) -> str:
    if uncertain:
        first = uncertain[0]
        return (
            f"{source} contains more than the weights of {module}: those under '{first.match.prefix}' fit, and "
            f"{len(first.match.left_out)} other tensors do not belong to it ({list_some(first.match.left_out)}). To use only the matching "
            f"weights, give --key {first.key}; otherwise check --factory and --factory-args."
        )
    nearest = max((*states, *([joined] if joined else [])), key=lambda state: _count_shared(state, expected))
    return describe_mismatch(nearest, expected, source, module)


def _count_shared(state: StateDict, expected: ExpectedTensors) -> tuple[int, int]:
    """Return how many tensors of the module have one of the same last components and shape, and of the same last component."""
    ends = {name.rpartition(".")[2] for name in expected.tensors}
    last = {tuple(name.split(".")[-2:]): tensor for name, tensor in state.tensors.items()}
    fitting = [
        n
        for n, t in expected.tensors.items()
        if (o := last.get(tuple(n.split(".")[-2:]))) is not None and tensors_fit(o, t)
    ]
    return len(fitting), sum(name.rpartition(".")[2] in ends for name in state.tensors)
