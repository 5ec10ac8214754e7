"""Tables whose rows can be pruned: those that are read only by lookups of the request's ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.walk import is_batch_size
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import ancestors, argument, arguments, find_source_line
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors

aten = torch.ops.aten


@dataclass(frozen=True)
class PrunableTable:
    """A table [rows, dim] that is only looked up; `inputs` are the names of the inputs that its ids come from.

    `reserved_ids` stand for padding or unknown values, and always keep their row.
    """

    name: str
    rows: int
    dim: int
    lookups: tuple[fx.Node, ...]
    inputs: tuple[str, ...]
    reserved_ids: frozenset[int]


@dataclass(frozen=True)
class UnprunableTable:
    """A table that is looked up but whose rows cannot be pruned, and the reason."""

    table: str
    reason: str


def find_prunable_tables(program: Program) -> tuple[dict[str, PrunableTable], tuple[UnprunableTable, ...]]:
    """Return the tables whose rows can be pruned, by name, and those whose rows cannot.

    Tables that no id of the request reads, such as those of positions, are in neither.
    """
    readers: dict[str, list[tuple[fx.Node, fx.Node]]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).extend((node, user) for user in node.users)
    prunable, unprunable = {}, []
    for name, pairs in readers.items():
        value = tensor_at(program.module, name)
        lookups = [user for table, user in pairs if _inputs_of_ids(user, table)]
        if not lookups or value.ndim != 2 or not isinstance(value, torch.nn.Parameter):
            continue
        other = next((user for table, user in pairs if user not in lookups), None)
        if other is not None:
            unprunable.append(UnprunableTable(name, _reason(other)))
            continue
        inputs = {i: None for table, user in pairs for i in _inputs_of_ids(user, table)}
        rows, dim = value.shape
        prunable[name] = PrunableTable(name, rows, dim, tuple(lookups), tuple(inputs), _reserved_ids(lookups, rows))
    return prunable, tuple(unprunable)


def get_ids(lookup: fx.Node) -> fx.Node:
    """Return the ids of a lookup."""
    ids = argument(lookup, "indices")
    index: fx.Node = ids[0] if lookup.target is aten.index.Tensor else ids
    return index


class IdReader:
    """Reader of the ids that a request looks up; it runs only the nodes that compute them."""

    def __init__(self, program: Program, tables: Sequence[PrunableTable]) -> None:
        self._signature = program.signature
        self._tables = [(table.name, lookup) for table in tables for lookup in table.lookups]
        ids = [get_ids(lookup) for _, lookup in self._tables]
        needed, graph = ancestors(ids), fx.Graph()
        new: dict[fx.Node, fx.Node] = {}
        for node in program.module.graph.nodes:
            if node.op == "placeholder" or node in needed:
                new[node] = graph.node_copy(node, new.__getitem__)
        graph.output(tuple(new[node] for node in ids))
        self._module = fx.GraphModule(program.module, graph)
        graph.owning_module = None  # as in `Program`, so that the tensors are freed with it

    def __call__(self, request: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """Return the name of the table and the ids, of any shape, of each lookup."""
        with torch.no_grad():
            outputs = self._module(*to_program_tensors(self._signature, request))
        return [(name, ids.long()) for (name, _), ids in zip(self._tables, outputs, strict=True)]

    def ids_by_request(self, request: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """Return the ids as [batch, any number], without lookups whose ids are not separated by rows of the request."""
        is_by_row = [is_batch_size(get_ids(lookup).meta["val"].shape[0]) for _, lookup in self._tables]
        lookups = zip(self(request), is_by_row, strict=True)
        return [(name, ids.reshape(len(ids), -1)) for (name, ids), by_row in lookups if by_row]


def _inputs_of_ids(user: fx.Node, table: fx.Node) -> list[str]:
    """Return the inputs that hold the ids by which `user` looks up rows of `table`; none for another operator."""
    if user.target not in (aten.embedding.default, aten.index.Tensor) or arguments(user)[0] is not table:
        return []
    if user.target is aten.index.Tensor and not _is_one_index(arguments(user)[1]):
        return []
    return [node.name for node in ancestors([get_ids(user)]) if node.op == "placeholder"]


def _is_one_index(indices: Sequence[Any]) -> bool:
    """Return whether an index selects whole rows and is not a mask."""
    value = indices[0].meta.get("val") if len(indices) == 1 and isinstance(indices[0], fx.Node) else None
    return isinstance(value, Tensor) and value.dtype != torch.bool


def _reserved_ids(lookups: Sequence[fx.Node], rows: int) -> frozenset[int]:
    """Return id 0, the padding, and the id after it: by convention these are padding and out of vocabulary."""
    paddings = {int(argument(n, "padding_idx")) for n in lookups if n.target is aten.embedding.default}
    paddings = {p for p in paddings if p >= 0}
    return frozenset(i for i in {0} | paddings | {p + 1 for p in paddings} if i < rows)


def _reason(user: fx.Node) -> str:
    if user.op == "output":
        return "the model returns it"
    place = find_source_line(user)
    operator = str(user.target).removesuffix(".default")
    return f"it is also read as a whole, by {operator}{f' at {place}' if place else ''}, which needs every row"
