"""Match the names of a state dict with those of a module: unchanged, or without prefixes and infixes of wrappers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from recprune_export.program.loading.weights.name_tree import (
    COUNTERS,
    WRAPPERS,
    Alignment,
    NameTree,
    TreeAligner,
    make_name_tree,
)


@dataclass(frozen=True)
class ExpectedTensors:
    """The tensors of a module by name, and those that may be missing in a file: counts of batches, and all but one of tied tensors."""

    tensors: dict[str, Tensor]
    optional: frozenset[str]
    ties: tuple[frozenset[str], ...]

    def allow(self, names: Iterable[str]) -> bool:
        """Return whether one of each set of tied tensors is among `names`."""
        given = set(names)
        return all(given & tie for tie in self.ties)


def expected_tensors(module: nn.Module) -> ExpectedTensors:
    """Return the tensors of the module's state dict."""
    tensors = {n: t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    shared: dict[int, set[str]] = {}
    for name, tensor in tensors.items():
        shared.setdefault(id(tensor), set()).add(name)
    ties = tuple(frozenset(names) for names in shared.values() if len(names) > 1)
    counts = {name for name in tensors if name.rpartition(".")[2] == "num_batches_tracked"}
    return ExpectedTensors(tensors, frozenset(counts).union(*ties), ties)


@dataclass(frozen=True)
class NameMatch:
    """Names that fit a module: those that begin with `prefix`, aligned; `left_out` are the others of the file."""

    prefix: str
    alignment: Alignment
    left_out: tuple[str, ...]

    @property
    def certain(self) -> bool:
        """Whether the match is certain: no name of the file is left out, or `prefix` is that of a common wrapper."""
        return not self.left_out or all(component in WRAPPERS for component in self.prefix.split(".")[:-1])

    def select(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under the names of the module."""
        return {name: state[stored] for name, stored in self.alignment.names.items()}


def match_names(state: Mapping[str, Tensor], expected: ExpectedTensors) -> list[NameMatch]:
    """Return the ways in which the names and shapes of `state` fit a module: all names, or all under one prefix.

    Names that fit unchanged have no other match. A counter of averaged weights is not counted as left out.
    """
    file, module = make_name_tree(state), make_name_tree(expected.tensors)
    aligner = TreeAligner(state, expected.tensors, expected.optional)
    matches: list[NameMatch] = []
    if expected.tensors:
        for prefix, tree in file.walk():
            if any(prefix.startswith(match.prefix) for match in matches):
                continue
            alignment = aligner.align(tree, module)
            if alignment is not None and expected.allow(alignment.names):
                matches.append(NameMatch(prefix, alignment, _list_others(file, prefix)))
    return matches


def _list_others(file: NameTree, prefix: str) -> tuple[str, ...]:
    return tuple(n for n in file.list_names() if not n.startswith(prefix) and n.rpartition(".")[2] not in COUNTERS)
