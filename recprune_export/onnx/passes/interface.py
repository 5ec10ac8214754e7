"""The names of inputs and outputs."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from recprune_export.errors import ExportError


def name_interface(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names.

    Before: any names. After: inputs and outputs are called as asked, in order; a value inside the graph that had one of
    these names has another; each output is made by a node of its own, also where the model returns one of its inputs or
    returns a value twice.

    Raises `ExportError` where an input and an output have the same name, which ONNX does not allow.
    """
    both = set(inputs) & set(outputs)
    if both:
        name = sorted(both)[0]
        raise ExportError(
            f"An input and an output are both called '{name}', which ONNX does not allow; rename one of them."
        )
    graph = model.graph
    _make_outputs_distinct(graph)
    names = dict(zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True))
    taken = {value.name for value in _values(graph)} | set(names.values())
    for value in _values(graph):
        if value in names or value.name in names.values():
            value.name = _free(f"{value.name}_value", taken)
    for value, name in names.items():
        value.name = name


def _make_outputs_distinct(graph: ir.Graph) -> None:
    seen: set[ir.Value] = set()
    for position, value in enumerate(graph.outputs):
        if value.producer() is None or value in seen:
            copy = ir.node("Identity", [value])
            graph.append(copy)
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.outputs[position] = copy.outputs[0]
        seen.add(graph.outputs[position])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from list(graph.initializers.values())
    for node in graph.all_nodes():
        yield from node.outputs


def _free(wanted: str, taken: set[str | None]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name
