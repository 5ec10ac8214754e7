"""Requests of a module whose rows have different numbers of elements, and a module that takes each input separately.

A `Partition` describes the rows of a request: a tensor of lengths or offsets, and the tensors that it divides. `JaggedModule` takes the
elements and the lengths of each input separately, and makes the model's tensors from them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.data.list_columns import find_present, to_matrix
from recprune_export.program.requests.jagged_inputs import (
    LENGTHS_SUFFIX,
    list_program_inputs,
    read_rows,
    to_program_tensors,
)
from recprune_export.program.requests.request_tree import FlatModule, RequestTree
from recprune_export.program.signature import BATCH, LENGTHS, OFFSETS, Input, Jagged, Signature

Rows = dict[str, Tensor]  # tensors of rows by input, as in `jagged_inputs.py`


@dataclass(frozen=True)
class Partition:
    """A leaf of lengths or offsets, of a `form` of `Jagged`, and the leaves that contain the elements.

    `values` are the leaves of the elements: one of all `keys`, or one of each. `weights` are leaves that are divided in the
    same way. `copies` are leaves with the same information in another form, by their number. The keys are on axis 0 of `stacked` rows,
    on axis 1 with `keys_last`.

    `single` are the indices of the keys that always have one element in each row, because a model may rely on it. They are inputs without
    lengths. With `stacked_values` this applies to all keys, which are on axis 0 of `values`.
    """

    rows: int
    form: str
    values: tuple[int, ...]
    keys: tuple[str, ...] = ("",)
    stacked: bool = False
    weights: tuple[int, ...] = ()
    copies: Mapping[int, str] | None = None
    keys_last: bool = False
    single: frozenset[int] = frozenset()
    stacked_values: bool = False

    def batch(self, tree: RequestTree) -> int:
        """Return the number of rows of the example; 0 if it is not an integer."""
        ends = tree.leaves[self.rows]
        if self.keys_last:
            ends = ends.T
        size = int(ends.shape[-1]) - (self.form not in (LENGTHS, OFFSETS))
        if self.stacked:
            return size if len(ends) == len(self.keys) else 0
        return size // len(self.keys) if size % len(self.keys) == 0 else 0


@dataclass(frozen=True)
class JaggedLayout:
    """The partitions of a request; other leaves have the batch on axis 0, or no batch."""

    tree: RequestTree
    partitions: tuple[Partition, ...]
    batch: int
    counts: Mapping[str, tuple[int, int]]  # the least and the most elements of a row, by input

    @property
    def divided(self) -> dict[int, Partition]:
        """The partition of each leaf of one."""
        return {
            leaf: part
            for part in self.partitions
            for leaf in (part.rows, *part.values, *part.weights, *(part.copies or ()))
        }

    def has_batch(self, leaf: int) -> bool:
        """Return whether a leaf of no partition has a row for each row of the request."""
        value = self.tree.leaves[leaf]
        return value.ndim > 0 and len(value) == self.batch

    def inputs(self) -> tuple[Input, ...]:
        """Return the inputs of the request, in the order of the leaves; shapes of rows, without ids."""
        names = self._names()
        inputs: list[Input] = []
        for leaf in self.tree.tensors:
            value, part = self.tree.leaves[leaf], self.divided.get(leaf)
            dtype = str(value.dtype).removeprefix("torch.")
            if part is None:
                shape = (BATCH, *value.shape[1:]) if self.has_batch(leaf) else tuple(value.shape)
                inputs.append(Input(names[leaf, 0], dtype, tuple(shape)))
                continue
            for number in self._numbers(part, leaf):
                if number in part.single:
                    of_element = value.shape[2:] if part.stacked_values else value.shape[1:]
                    inputs.append(Input(names[leaf, number], dtype, (BATCH, *of_element)))
                    continue
                present = names[part.values[number if len(part.values) > 1 else 0], number]
                counts = self.counts.get(present, (0, 1))
                jagged = Jagged(
                    counts,
                    present,
                    values=self.tree.name(leaf),
                    rows=self.tree.name(part.rows),
                    rows_dtype=str(self.tree.leaves[part.rows].dtype).removeprefix("torch."),
                    form=part.form,
                    stacked=part.stacked,
                    keys_last=part.keys_last,
                )
                shape = (BATCH, counts[1], *value.shape[1:])
                inputs.append(Input(names[leaf, number], dtype, tuple(shape), jagged=jagged))
        return tuple(inputs)

    def _numbers(self, part: Partition, leaf: int) -> list[int]:
        """Return the indices of the keys whose elements a leaf contains; empty for lengths and offsets."""
        if leaf not in (*part.values, *part.weights):
            return []
        siblings = part.values if leaf in part.values else part.weights
        return list(range(len(part.keys))) if len(part.values) == 1 else [siblings.index(leaf)]

    def _names(self) -> dict[tuple[int, int], str]:
        """Return the name of each input by its leaf and the number of its key: the shortest that is unique."""
        short: dict[tuple[int, int], str] = {}
        whole: dict[tuple[int, int], str] = {}
        for leaf in self.tree.tensors:
            part = self.divided.get(leaf)
            path = self.tree.paths[leaf]
            if part is None:
                short[leaf, 0], whole[leaf, 0] = path[-1], self.tree.name(leaf)
                continue
            for number in self._numbers(part, leaf):
                key = part.keys[number] if len(part.values) == 1 else ""
                container = "_".join(step.strip("_") for step in (path[:-1] if len(path) > 1 else path))
                base = key or self._common_name(part)
                base = base or (container if len(part.values) == 1 and len(path) > 1 else self.tree.name(leaf))
                suffix = f"_{path[-1].strip('_')}" if leaf in part.weights and len(path) > 1 else ""
                short[leaf, number] = base + suffix
                whole[leaf, number] = "_".join(filter(None, (self.tree.name(leaf), key)))
        uses = Counter(short.values())
        return {
            place: name if uses[name] == 1 and name[:1].isalpha() else whole[place] for place, name in short.items()
        }

    def _common_name(self, part: Partition) -> str:
        """Return `genres` for elements `genres__values` and ends of rows `genres__offsets` in one dict; else an empty string."""
        paths = [self.tree.paths[leaf] for leaf in (part.rows, *part.values)]
        if (
            len(part.values) > 1
            or len(part.keys) > 1
            or any(len(path) < 2 or path[:-1] != paths[0][:-1] for path in paths)
        ):
            return ""
        first = paths[0][-1]
        prefixes = (first[:end] for end in range(len(first), 0, -1) if first[:end].endswith("_"))
        common = next((prefix for prefix in prefixes if all(path[-1].startswith(prefix) for path in paths)), "")
        return common.rstrip("_")

    def example_counts(self) -> dict[int, list[np.ndarray]]:
        """Return the number of elements in each row of the example, for each key, by the leaf of lengths or offsets."""
        counts: dict[int, list[np.ndarray]] = {}
        for part in self.partitions:
            totals = [len(self.tree.leaves[leaf]) for leaf in part.values]
            if part.stacked_values:
                totals = [self.batch] * len(part.keys)
            ends = self.tree.leaves[part.rows].numpy()
            jagged = Jagged((0, 1), "", "", "", form=part.form, stacked=part.stacked, keys_last=part.keys_last)
            counts[part.rows] = read_rows(ends, jagged, len(part.keys), totals)
        return counts

    def example_rows(self) -> Rows:
        """Return the example as tensors of rows."""
        rows: Rows = {}
        inputs = iter(self.inputs())
        counts = self.example_counts()
        for leaf in self.tree.tensors:
            divided, value = self.divided.get(leaf), self.tree.leaves[leaf].detach()
            if divided is None:
                rows[next(inputs).name] = value
                continue
            start = 0
            if divided.stacked_values:
                value = value.flatten(0, 1)
            for number in self._numbers(divided, leaf):
                count = counts[divided.rows][number]
                elements = value[start : start + int(count.sum())]
                single = number in divided.single
                matrix = elements if single else torch.from_numpy(to_matrix(elements.numpy(), count))
                rows[next(inputs).name] = matrix
                start = start + int(count.sum()) if len(divided.values) == 1 else 0
        return rows

    def select(self, rows: Rows, chosen: Tensor) -> Rows:
        """Return some rows; tensors without a batch are complete."""
        inputs = {i.name: i for i in self.inputs()}
        return {name: value[chosen] if inputs[name].shape[:1] == (BATCH,) else value for name, value in rows.items()}

    def tensors(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return the tensors that `JaggedModule` takes."""
        return tuple(to_program_tensors(Signature(self.inputs(), ()), rows))

    def program_inputs(self) -> list[Input]:
        """Return an input for each tensor that `JaggedModule` takes; a size that varies has a name."""
        return list_program_inputs(Signature(self.inputs(), ()))

    def lengths_of_elements(self) -> dict[int, int]:
        """Return where `JaggedModule` takes the elements of each input, by where it takes their lengths."""
        places = {spec.name: place for place, spec in enumerate(self.program_inputs())}
        return {
            places[i.name + LENGTHS_SUFFIX]: places[i.name]
            for i in self.inputs()
            if i.jagged is not None and i.jagged.present == i.name
        }

    def with_counts(self, counts: Mapping[str, tuple[int, int]]) -> "JaggedLayout":
        """Return the layout with other numbers of elements in drawn rows."""
        return replace(self, counts=counts)

    def with_ids(self, program_inputs: Sequence[Input]) -> tuple[Input, ...]:
        """Return the inputs with the ids and ranges that were found for the tensors of the program."""
        by_name = {i.name: i for i in program_inputs}
        return tuple(replace(i, ids=by_name[i.name].ids, observed=by_name[i.name].observed) for i in self.inputs())


class JaggedModule(FlatModule):
    """A module that takes the elements and the lengths of each input, in the order of `JaggedLayout.program_inputs`."""

    def __init__(self, module: nn.Module, layout: JaggedLayout) -> None:
        super().__init__(module, layout.tree)
        self._layout = layout

    def leaves(self, tensors: Sequence[Tensor]) -> dict[int, Tensor]:
        """Make the leaves of the model's request."""
        layout = self._layout
        inputs = layout.inputs()
        given = dict(zip((i.name for i in list_program_inputs(Signature(inputs, ()))), tensors, strict=True))
        names = layout._names()
        leaves: dict[int, Tensor] = {}
        for leaf in layout.tree.tensors:
            part = layout.divided.get(leaf)
            if part is None:
                leaves[leaf] = given[names[leaf, 0]]
            elif leaf in (*part.values, *part.weights):
                elements = [given[names[leaf, number]] for number in layout._numbers(part, leaf)]
                leaves[leaf] = torch.stack(elements) if part.stacked_values else _cat(elements)
            else:
                places = [(part.values[n if len(part.values) > 1 else 0], n) for n in range(len(part.keys))]
                lengths = [
                    given[names[place]].new_ones(given[names[place]].shape[0], dtype=torch.int64)
                    if place[1] in part.single
                    else given[names[place] + LENGTHS_SUFFIX]
                    for place in places
                ]
                form = (part.copies or {}).get(leaf, part.form)
                ends = _write_rows(lengths, form, part.stacked)
                ends = ends.T if part.keys_last else ends
                leaves[leaf] = ends.to(layout.tree.leaves[leaf].dtype)
        return leaves


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _write_rows(lengths: list[Tensor], form: str, stacked: bool) -> Tensor:
    """Return the tensor of lengths or offsets; as `jagged_inputs.write_rows`, in PyTorch."""
    counts = torch.stack(lengths) if stacked else _cat(lengths)
    if form == LENGTHS:
        return counts
    ends = torch.cumsum(counts, -1)
    return ends - counts if form == OFFSETS else torch.cat([torch.zeros_like(ends[..., :1]), ends], -1)


def count_elements(rows: Tensor) -> Tensor:
    """Return the number of elements of each row of a matrix."""
    counts: Tensor = find_present(rows).sum(1)
    return counts
