"""Labels of channel groups: names of the user's fields and layers, for screens, reports and messages."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from recprune_export.channels.fields import Field, Fields
from recprune_export.channels.groups import Group
from recprune_export.program.inserted_parameters import is_inserted
from recprune_export.program.nodes import ancestors

MAX_NAMES, MAX_LENGTH = 3, 40  # of one label
# The parameters of PyTorch's own layers, which stand for the layer.
_OF_A_LAYER = re.compile(r"(.+)\.(in_proj_)?(weight|bias)(_(ih|hh)(_l\d+)?(_reverse)?)?")


def label_groups(
    module: fx.GraphModule,
    groups: Sequence[Group],
    removed_by: Mapping[str, Any],
    tables: frozenset[str],
    fields: Fields,
) -> tuple[Group, ...]:
    """Return the groups with a label each, all of them different.

    A group of tables is named after the fields that are looked up in them. A group of hidden channels is named after the layers that
    compute them: the layers before the matrix, if a projection was inserted, or the layers that read them, if no layer computes them. A
    table has the name of its field if the field is a whole input and no other field reads the table; otherwise, or if two groups would
    have the same label, it has the name of its module.
    """
    layers = _LayersOfGroups(module, groups, removed_by)
    names_by_field = _find_names_by_field(module, fields)
    labels = [_describe(group, tables, layers, names_by_field) for group in groups]
    counts = Counter(labels)
    labels = [
        label if counts[label] == 1 else _describe(group, tables, layers, {})
        for group, label in zip(groups, labels, strict=True)
    ]
    return tuple(replace(group, label=label) for group, label in zip(groups, _number_repeated(labels), strict=True))


def name_layer(parameter: str) -> str:
    """Return the module path of a layer's parameter; the unchanged name for other parameters.

    >>> name_layer("mlp.0.weight"), name_layer("encoder.lstm.weight_ih_l0"), name_layer("cross.kernel")
    ('mlp.0', 'encoder.lstm', 'cross.kernel')
    """
    found = _OF_A_LAYER.fullmatch(parameter)
    return found[1] if found else parameter


def join_names(names: Iterable[str]) -> str:
    """Join different names; if they are many or long, the last ones are replaced by their number.

    >>> join_names("abc"), join_names("abcd"), join_names("aab")
    ('a + b + c', 'a + b + 2 more', 'a + b')
    >>> join_names(["experts.0.layers.0.linear.weights", "experts.1.layers.0.linear.weights"])
    'experts.0.layers.0.linear.weights + 1 more'
    """
    different = list(dict.fromkeys(names))
    label = ""
    for shown in (len(different) if len(different) <= MAX_NAMES else MAX_NAMES - 1, 2, 1):
        rest = [f"{len(different) - shown} more"] if shown < len(different) else []
        label = " + ".join([*different[:shown], *rest])
        if len(label) <= MAX_LENGTH:
            break
    return label


class _LayersOfGroups:
    """The parameters of each group, in the order of the graph: those that compute its channels, and those that read them.

    `projected[group]` are the parameters that compute the input of the matrix that was inserted before the channels.
    """

    def __init__(self, module: fx.GraphModule, groups: Sequence[Group], removed_by: Mapping[str, Any]) -> None:
        self.computing: dict[str, list[str]] = defaultdict(list)
        self.reading: dict[str, list[str]] = defaultdict(list)
        self.projected: dict[str, list[str]] = defaultdict(list)
        self._parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self._constants: set[fx.Node] = set()
        group_names = {channel.identity: group.name for group in groups for channel in group.channels}
        held: dict[fx.Node, frozenset[str]] = {}
        for node in module.graph.nodes:
            held[node] = frozenset(group_names[c] for c in _channels_in(removed_by.get(node.name)) if c in group_names)
            sources = node.all_input_nodes
            if node.op == "get_attr" or (node.op == "call_function" and self._constants.issuperset(sources)):
                self._constants.add(node)
                continue
            values = [source for source in sources if source not in self._constants]
            arriving = frozenset[str]().union(*(held[value] for value in values))
            for weight in (source for source in sources if source in self._constants):
                names = self._find_parameters(weight)
                for group in held[weight] & held[node] - arriving:
                    self.computing[group] += [name for name in names if not is_inserted(name)]
                    if any(is_inserted(name) for name in names):
                        self.projected[group] += self._find_nearest_parameters(values)
                for group in held[weight] & arriving - held[node]:
                    self.reading[group] += [name for name in names if not is_inserted(name)]

    def _find_parameters(self, constant: fx.Node) -> list[str]:
        names = [str(source.target) for source in ancestors([constant]) if source.op == "get_attr"]
        return [name for name in names if name in self._parameters]

    def _find_nearest_parameters(self, values: Sequence[fx.Node]) -> list[str]:
        """Return the parameters of the last layers before values."""
        found: list[str] = []
        visited = dict.fromkeys(values)
        pending = list(visited)
        while pending:
            node = pending.pop(0)
            names = [n for s in node.all_input_nodes if s in self._constants for n in self._find_parameters(s)]
            new = [] if names else [s for s in node.all_input_nodes if s not in visited]
            found += names
            visited |= dict.fromkeys(new)
            pending += new
        return found


def _channels_in(removed_by: Any) -> Iterator[int]:
    """Return the channels that remove an index of a value, which may have several outputs."""
    if isinstance(removed_by, frozenset):
        yield from removed_by
    for part in removed_by if isinstance(removed_by, tuple) else ():
        yield from _channels_in(part)


def _describe(group: Group, tables: frozenset[str], layers: _LayersOfGroups, names_by_field: Mapping[str, str]) -> str:
    def join_parameters(parameters: Iterable[str]) -> str:
        return join_names(names_by_field.get(name) or name_layer(name) for name in parameters)

    looked_up = [tensor for tensor, axis in group.axes() if tensor in tables and axis == 1]
    computing = looked_up or layers.computing[group.name]
    if group.kind == "field" or not (computing or layers.projected[group.name] or layers.reading[group.name]):
        return group.name
    if computing:
        return join_parameters(computing)
    if layers.projected[group.name]:
        return f"{join_parameters(layers.projected[group.name])}, projected"
    return f"input of {join_parameters(layers.reading[group.name])}"


def _find_names_by_field(module: fx.GraphModule, fields: Fields) -> dict[str, str]:
    """Return the field of each table that is read only by lookups of one whole input.

    A table that a rewrite has joined has no module, so it always has the name of its field.
    """
    names = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            by_reader = [_get_lookup_fields(fields, reader) for reader in node.users]
            found = set().union(*by_reader)
            if all(by_reader) and len(found) == 1:
                (field,) = found
                if field.columns is None or is_inserted(str(node.target)):
                    names[str(node.target)] = field.name
    return names


def _get_lookup_fields(fields: Fields, lookup: fx.Node) -> set[Field]:
    numbers = fields.lookups.get(lookup.name)
    return set() if numbers is None else {fields.ordered[number] for number in numbers.flatten().tolist()}


def _number_repeated(labels: Sequence[str]) -> list[str]:
    """Return distinct labels: the second of two equal ones gets a number.

    >>> _number_repeated(["a", "b", "a"])
    ['a', 'b', 'a #2']
    """
    counts: Counter[str] = Counter()
    numbered = []
    for label in labels:
        counts[label] += 1
        numbered.append(label if counts[label] == 1 else f"{label} #{counts[label]}")
    return numbered
