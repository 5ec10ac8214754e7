"""Metadata of the exporter."""

import onnx_ir as ir


def clear_metadata(model: ir.Model) -> None:
    """Remove the exporter's notes about the source code, such as stack traces with local paths.

    Before: metadata and documentation anywhere. After: none; they can be larger than the weights of a small model.
    """
    for element in _list_elements(model):
        element.metadata_props.clear()
        element.doc_string = None


def _list_elements(model: ir.Model) -> list[ir.Model | ir.Graph | ir.Node | ir.Value]:
    elements: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model]
    for graph in model.graphs():
        elements += [graph, *graph.inputs, *graph.initializers.values()]
        for node in graph:
            elements += [node, *node.outputs]
    return elements
