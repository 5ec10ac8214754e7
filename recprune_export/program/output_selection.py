"""Select the outputs of a program that are served; parts that only other outputs need are removed, including inputs."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import fx

from recprune_export.column_names import did_you_mean, list_names
from recprune_export.errors import UsageError
from recprune_export.program.canonical import remove_dead_code
from recprune_export.program.nodes import ancestors
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import has_jagged_inputs


def select_outputs(program: Program, names: Sequence[str]) -> Program:
    """Return the program that computes only the outputs `names`, in their order in the signature; all outputs for an empty list.

    Operators that only other outputs need are removed, as are inputs that only they read, with a note.

    Raises `UsageError` for a name that is no output.
    """
    outputs = program.signature.outputs
    known = [output.name for output in outputs]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(
            f"--outputs names '{unknown}', which is not an output of the model; choose from {list_names(known)}"
            f"{did_you_mean(unknown, known)}{''.join(f' {note}' for note in program.notes if repr(unknown) in note)}"
        )
    if not names or set(names) == set(known):
        return program
    copy = program.with_copied_graph()
    copy.module.graph.owning_module = copy.module
    # A jagged input is several tensors of the graph, so all inputs stay.
    left = keep_outputs(copy.module, [name in names for name in known], all_inputs=has_jagged_inputs(program.signature))
    inputs = program.signature.inputs
    if not has_jagged_inputs(program.signature):
        inputs = tuple(i for position, i in enumerate(inputs) if position in left)
    dropped = [i.name for i in program.signature.inputs if i not in inputs]
    signature = replace(
        program.signature, inputs=inputs, outputs=tuple(output for output in outputs if output.name in names)
    )
    module = fx.GraphModule(copy.module, copy.module.graph)  # contains only the tensors that the graph reads
    note = (describe_unread_inputs(dropped, "by no chosen output"),) if dropped else ()
    return Program(module, signature, (*program.notes, *note))


def describe_unread_inputs(names: Collection[str], reader: str) -> str:
    """Return a note on inputs that are left out because nothing that is served reads them.

    >>> describe_unread_inputs(["label"], "by 'loss' alone")
    "The input 'label' is read by 'loss' alone, and is left out."
    """
    plural = len(names) > 1
    return (
        f"The input{'s' if plural else ''} {list_names(map(repr, names))} {'are' if plural else 'is'} read {reader}, "
        f"and {'are' if plural else 'is'} left out."
    )


def keep_outputs(module: fx.GraphModule, kept: Sequence[bool], *, all_inputs: bool = False) -> list[int]:
    """Remove the outputs that are not `kept`, and the parts that only they need, in place; return the positions of the remaining inputs.

    An input that no output reads is kept, because the model was written to accept it; with `all_inputs` every input is kept.
    """
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    values = list(output.args[0])
    removed = [value for value, keep in zip(values, kept, strict=True) if not keep]
    output.args = (tuple(value for value, keep in zip(values, kept, strict=True) if keep),)
    needed = ancestors([value for value in output.args[0] if isinstance(value, fx.Node)])
    once_read = ancestors([value for value in removed if isinstance(value, fx.Node)])
    remove_dead_code(module)
    left = []
    for position, node in enumerate([node for node in module.graph.nodes if node.op == "placeholder"]):
        if node in once_read and node not in needed and not all_inputs:
            module.graph.erase_node(node)
        else:
            left.append(position)
    return left


def describe_unserved(name: str, value: torch.Tensor) -> str | None:
    """Return why an output cannot be served, or None if its axis 0 has the rows of the request."""
    if value.ndim == 0:
        return f"The output '{name}' is one number for the whole request, such as a loss, and not one per row: it is left out."
    if isinstance(value.shape[0], int):
        sizes = " × ".join(str(size) if isinstance(size, int) else "batch" for size in value.shape)
        return f"The output '{name}' has the shape {sizes}and does not have one row per row of the request on axis 0: it is left out."
    return None
