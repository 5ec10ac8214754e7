"""The names of a state dict as a tree of their components, and the alignment of the trees of a file and of a module."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.parameter import is_lazy

from recprune_export.errors import ModelFileError

MAX_DEPTH = 100  # components of a name
# The attribute in which a wrapper holds the network.
WRAPPERS = frozenset(
    {
        "module",  # DataParallel, DistributedDataParallel, AveragedModel
        "_orig_mod",  # torch.compile
        "model", "net", "network",  # LightningModule, and a Trainer's module, by habit
        "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_original_module",
    }
)  # fmt: skip
COUNTERS = frozenset({"n_averaged"})  # of AveragedModel: how many weights were averaged


@dataclass(frozen=True)
class NameTree:
    """One component of names: the whole `name` of a tensor where one ends here, and the components that follow."""

    name: str | None = None
    children: dict[str, "NameTree"] = field(default_factory=dict)

    def list_names(self) -> list[str]:
        """Return the names of all tensors in this part of the tree."""
        own = [] if self.name is None else [self.name]
        return [*own, *(name for child in self.children.values() for name in child.list_names())]

    def walk(self, prefix: str = "") -> Iterator[tuple[str, "NameTree"]]:
        """Yield each part of the tree under its prefix, which ends in a dot, from the outside in."""
        yield prefix, self
        for component, child in self.children.items():
            if child.children:
                yield from child.walk(f"{prefix}{component}.")


def make_name_tree(names: Mapping[str, object]) -> NameTree:
    """Return the tree of dotted names. Raises `ModelFileError` for a name that is nested too deeply.

    >>> make_name_tree({"a.weight": None, "a.bias": None}).children["a"].list_names()
    ['a.weight', 'a.bias']
    """
    root = NameTree()
    for name in names:
        components = name.split(".")
        if len(components) > MAX_DEPTH:
            raise ModelFileError(f"'{name[:80]}...' is not a name of a weight: it has {len(components)} components.")
        node = root
        for component in components[:-1]:
            node = node.children.setdefault(component, NameTree())
        last = node.children.get(components[-1], NameTree())
        node.children[components[-1]] = NameTree(name, last.children)
    return root


@dataclass(frozen=True)
class Alignment:
    """The name in the file for each name in the module, and the components that only one of them has, with a dot."""

    names: dict[str, str]
    removed: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()


class TreeAligner:
    """Aligns parts of two trees; `optional` are names that may be missing in the file.

    On either side, a component of `WRAPPERS` that is the only child is skipped if the names do not fit with it.
    """

    def __init__(self, file: Mapping[str, Tensor], module: Mapping[str, Tensor], optional: frozenset[str]) -> None:
        self._file, self._module, self._optional = file, module, optional
        self._known: dict[tuple[int, int], Alignment | None] = {}

    def align(self, file: NameTree, module: NameTree) -> Alignment | None:
        """Return how the names of two parts of the trees correspond, all of them, with equal shapes; None if they do not."""
        key = (id(file), id(module))
        if key not in self._known:
            self._known[key] = None  # a search that returns to the same pair has found no alignment
            self._known[key] = self._align_children(file, module) or self._pass_over(file, module)
        return self._known[key]

    def _align_children(self, file: NameTree, module: NameTree) -> Alignment | None:
        missing = [child for name, child in module.children.items() if name not in file.children]
        if file.children.keys() - module.children.keys() or not all(self._may_lack(child) for child in missing):
            return None
        if (file.name is None) != (module.name is None):
            return None
        names: dict[str, str] = {}
        if file.name is not None and module.name is not None:
            if not tensors_fit(self._file[file.name], self._module[module.name]):
                return None
            names[module.name] = file.name
        removed, added = set[str](), set[str]()
        for name, child in file.children.items():
            alignment = self.align(child, module.children[name])
            if alignment is None:
                return None
            names |= alignment.names
            removed |= alignment.removed
            added |= alignment.added
        return Alignment(names, frozenset(removed), frozenset(added))

    def _pass_over(self, file: NameTree, module: NameTree) -> Alignment | None:
        wrapper = find_wrapper(file)
        if wrapper is not None and (inner := self.align(file.children[wrapper], module)) is not None:
            return Alignment(inner.names, inner.removed | {f"{wrapper}."}, inner.added)
        wrapper = find_wrapper(module)
        if wrapper is not None and (inner := self.align(file, module.children[wrapper])) is not None:
            return Alignment(inner.names, inner.removed, inner.added | {f"{wrapper}."})
        return None

    def _may_lack(self, module: NameTree) -> bool:
        return self._optional.issuperset(module.list_names())


def find_wrapper(tree: NameTree) -> str | None:
    """Return the only component of a part of a tree if it is one of `WRAPPERS`, ignoring a counter of averaged weights."""
    names = tree.children.keys() - COUNTERS
    return next(iter(names)) if tree.name is None and len(names) == 1 and names <= WRAPPERS else None


def tensors_fit(stored: Tensor, expected: Tensor) -> bool:
    """Return whether a tensor of a file can be the value of a tensor of a module: same shape, and both floating-point or both integer."""
    if is_lazy(expected):
        return True
    return stored.shape == expected.shape and has_fraction(stored) == has_fraction(expected)


def has_fraction(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
