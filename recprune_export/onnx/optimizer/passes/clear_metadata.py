"""Remarks of the exporter."""

import onnx_ir as ir


def clear_metadata(model: ir.Model) -> None:
    """Remove what the exporter notes about the source code: stack traces with paths of this machine, among others.

    Before: metadata and documentation anywhere. After: none; they can be longer than the weights of a small model.
    """
    for described in _described(model):
        described.metadata_props.clear()
        described.doc_string = None


def _described(model: ir.Model) -> list[ir.Model | ir.Graph | ir.Node | ir.Value]:
    found: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model]
    for graph in model.graphs():
        found += [graph, *graph.inputs, *graph.initializers.values()]
        for node in graph:
            found += [node, *node.outputs]
    return found
