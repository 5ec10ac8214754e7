"""Categorical fields of a program, found from the lookups of its inputs.

A field is an input whose ids are looked up, or some columns of one. Columns that one lookup reads from the same rows of a table, such as
a history, are values of one field; columns with different offsets are different fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.program.dataflow import IdLookup, RequestDataflow, trace_dataflow
from recprune_export.program.nodes import arguments
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import list_program_inputs

aten = torch.ops.aten


@dataclass(frozen=True)
class Field:
    """An input, or the columns of it whose numbers within one row are in `columns`; None stands for all columns."""

    input: str
    columns: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The name in reports and options.

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
    """The fields, numbered in the order of the request, and the nodes that use their ids.

    `lookups[node]` has the shape of the node's ids without the batch: the number of each id's field. `readers[node]`
    are the fields whose ids a node uses other than in a lookup.
    """

    ordered: tuple[Field, ...]
    lookups: Mapping[str, Tensor]
    readers: Mapping[str, frozenset[int]]


def find_fields(program: Program, example: Sequence[Tensor]) -> Fields:
    """Find the fields of `program`; `example` is a valid request."""
    origins = trace_dataflow(program.module, example)
    lookups = {lookup.node.name: _ids_of_a_row(lookup) for lookup in origins.lookups if _takes_rows_of_a_table(lookup)}
    row_ids = {name: ids for name, ids in lookups.items() if ids is not None}
    inputs = {element: name for name, elements in origins.elements.items() for element in elements}
    first_elements = _join_values(list(row_ids.values()), inputs)
    numbers = {first: number for number, first in enumerate(sorted(set(first_elements.values())))}
    field_numbers = {element: numbers[first] for element, first in first_elements.items()}
    return Fields(
        ordered=_name(program, origins, field_numbers),
        lookups={name: _numbers(element, field_numbers) for name, (element, _) in row_ids.items()},
        readers=_readers(origins, set(row_ids), field_numbers),
    )


def _takes_rows_of_a_table(lookup: IdLookup) -> bool:
    """Return whether the output is a row of a parameter for each id."""
    table = arguments(lookup.node)[0]
    if not isinstance(table, fx.Node) or table.op != "get_attr":
        return False
    if not isinstance(
        lookup.node.meta["val"], Tensor
    ):  # an operator with several results, such as a bag that is not replaced
        return False
    ids, rows, output = (list(node.meta["val"].shape) for node in (lookup.ids, table, lookup.node))
    return lookup.node.target is not aten.gather.default and output == [*ids, *rows[1:]]


def _ids_of_a_row(lookup: IdLookup) -> tuple[Tensor, Tensor] | None:
    """Return the elements and steps of the ids of one row of the request, or None if rows are mixed."""
    element, steps = lookup.origin.element, lookup.origin.steps
    batch = lookup.ids.meta["val"].shape[:1]
    if not batch or isinstance(batch[0], int) or not len(element):
        return None
    if bool((element != element[:1]).any() | (steps != steps[:1]).any()):
        return None
    return element[0], steps[0]


def _join_values(lookups: Sequence[tuple[Tensor, Tensor]], inputs: Mapping[int, str]) -> dict[int, int]:
    """Return the first element of each element's field; columns that one lookup reads in the same rows share a field."""
    parent: dict[int, int] = {}

    def first(element: int) -> int:
        while parent.setdefault(element, element) != element:
            element = parent[element]
        return element

    for elements, steps in lookups:
        leaders: dict[tuple[str, int], int] = {}
        for element, chain in zip(elements.flatten().tolist(), steps.flatten().tolist(), strict=True):
            leader = leaders.setdefault((inputs[element], chain), element)
            one, other = sorted((first(element), first(leader)))
            parent[other] = one
    return {element: first(element) for element in parent}


def _numbers(elements: Tensor, field_numbers: Mapping[int, int]) -> Tensor:
    numbers = [field_numbers[element] for element in elements.flatten().tolist()]
    return torch.tensor(numbers, dtype=torch.int64).reshape(elements.shape)


def _readers(
    origins: RequestDataflow, lookups: set[str], field_numbers: Mapping[int, int]
) -> dict[str, frozenset[int]]:
    elements_by_node = {node.name: set(elements) for node, elements in origins.readers.items()}
    for lookup in origins.lookups:
        if lookup.node.name not in lookups:
            elements_by_node.setdefault(lookup.node.name, set()).update(lookup.origin.element.flatten().tolist())
    fields_by_node = {
        name: frozenset(field_numbers[e] for e in elements if e in field_numbers)
        for name, elements in elements_by_node.items()
    }
    return {name: fields for name, fields in fields_by_node.items() if fields}


def _name(program: Program, origins: RequestDataflow, field_numbers: Mapping[int, int]) -> tuple[Field, ...]:
    elements: dict[int, list[int]] = {}
    for element, number in field_numbers.items():
        elements.setdefault(number, []).append(element)
    fields = []
    for number in sorted(elements):
        members = sorted(elements[number])
        spec, input_elements = next(
            (spec, numbers)
            for spec, numbers in zip(list_program_inputs(program.signature), origins.elements.values(), strict=True)
            if members[0] in numbers
        )
        whole = set(input_elements) <= set(members)
        fields.append(Field(spec.name, None if whole else tuple(element - input_elements.start for element in members)))
    return tuple(fields)
