"""The categorical fields of a program: what its inputs stand for in the lookups.

A field is an input that is looked up by its ids, or some columns of one. Columns that one lookup reads in the same rows
of a table, such as a history, are values of one field; where offsets lead them to rows of their own, they are fields apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.program.dataflow import IdLookup, RequestDataflow, trace_dataflow
from recprune_export.program.nodes import arguments
from recprune_export.program.program import Program

aten = torch.ops.aten

NO_FIELD = -1


@dataclass(frozen=True)
class Field:
    """An input, or those of its columns that `columns` counts in one row; None stands for all of them."""

    input: str
    columns: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """How the user sees it.

        >>> Field("user").name, Field("x", (3,)).name, Field("x", (4, 5, 6)).name, Field("x", (0, 2)).name
        ('user', 'x[3]', 'x[4:7]', 'x[0,2]')
        """
        if self.columns is None:
            return self.input
        first, last = self.columns[0], self.columns[-1]
        if len(self.columns) > 1 and self.columns == tuple(range(first, last + 1)):
            return f"{self.input}[{first}:{last + 1}]"
        return f"{self.input}[{','.join(map(str, self.columns))}]"


@dataclass(frozen=True)
class Fields:
    """The fields, numbered in the order of the request, and what the graph does with their ids.

    `lookups[node]` has the shape of the node's ids without the batch: the number of each id's field. `readers[node]`
    are the fields whose ids a node uses for something else.
    """

    ordered: tuple[Field, ...]
    lookups: Mapping[str, Tensor]
    readers: Mapping[str, frozenset[int]]


def find_fields(program: Program, example: Sequence[Tensor]) -> Fields:
    """Find the fields of `program`; `example` is a valid request."""
    origins = trace_dataflow(program.module, example)
    lookups = {lookup.node.name: _ids_of_a_row(lookup) for lookup in origins.lookups if _takes_rows_of_a_table(lookup)}
    known = {name: ids for name, ids in lookups.items() if ids is not None}
    input_of = {element: name for name, elements in origins.elements.items() for element in elements}
    first_of = _join_values(list(known.values()), input_of)
    number_of = {first: number for number, first in enumerate(sorted(set(first_of.values())))}
    field_of = {element: number_of[first] for element, first in first_of.items()}
    return Fields(
        ordered=_name(program, origins, field_of),
        lookups={name: _numbers(element, field_of) for name, (element, _) in known.items()},
        readers=_readers(origins, set(known), field_of),
    )


def _takes_rows_of_a_table(lookup: IdLookup) -> bool:
    """Whether the output is, for each id, a row of a parameter."""
    table = arguments(lookup.node)[0]
    if not isinstance(table, fx.Node) or table.op != "get_attr":
        return False
    ids, rows, taken = (list(node.meta["val"].shape) for node in (lookup.ids, table, lookup.node))
    return lookup.node.target is not aten.gather.default and taken == [*ids, *rows[1:]]


def _ids_of_a_row(lookup: IdLookup) -> tuple[Tensor, Tensor] | None:
    """The elements and offsets of the ids of one row of the request; None where rows are mixed."""
    element, offset = lookup.origin.element, lookup.origin.offset
    batch = lookup.ids.meta["val"].shape[:1]
    if not batch or isinstance(batch[0], int) or bool((element != element[:1]).any() | (offset != offset[:1]).any()):
        return None
    return element[0], offset[0]


def _join_values(lookups: Sequence[tuple[Tensor, Tensor]], input_of: Mapping[int, str]) -> dict[int, int]:
    """The first element of each element's field: columns that one lookup reads in the same rows are of one field."""
    parent: dict[int, int] = {}

    def first(element: int) -> int:
        while parent.setdefault(element, element) != element:
            element = parent[element]
        return element

    for elements, offsets in lookups:
        leaders: dict[tuple[str, float], int] = {}
        for element, offset in zip(elements.flatten().tolist(), offsets.flatten().tolist(), strict=True):
            leader = leaders.setdefault((input_of[element], offset), element)
            one, other = sorted((first(element), first(leader)))
            parent[other] = one
    return {element: first(element) for element in parent}


def _numbers(elements: Tensor, field_of: Mapping[int, int]) -> Tensor:
    numbers = [field_of[element] for element in elements.flatten().tolist()]
    return torch.tensor(numbers, dtype=torch.int64).reshape(elements.shape)


def _readers(origins: RequestDataflow, lookups: set[str], field_of: Mapping[int, int]) -> dict[str, frozenset[int]]:
    found = {node.name: set(elements) for node, elements in origins.readers.items()}
    for lookup in origins.lookups:
        if lookup.node.name not in lookups:
            found.setdefault(lookup.node.name, set()).update(lookup.origin.element.flatten().tolist())
    read = {name: frozenset(field_of[e] for e in elements if e in field_of) for name, elements in found.items()}
    return {name: fields for name, fields in read.items() if fields}


def _name(program: Program, origins: RequestDataflow, field_of: Mapping[int, int]) -> tuple[Field, ...]:
    elements: dict[int, list[int]] = {}
    for element, number in field_of.items():
        elements.setdefault(number, []).append(element)
    fields = []
    for number in sorted(elements):
        mine = sorted(elements[number])
        spec, own = next(
            (spec, numbers)
            for spec, numbers in zip(program.signature.inputs, origins.elements.values(), strict=True)
            if mine[0] in numbers
        )
        whole = set(own) <= set(mine)
        fields.append(Field(spec.name, None if whole else tuple(element - own.start for element in mine)))
    return tuple(fields)
