"""Weights that do not fit into memory: the module is made without its long tables, which stay in the files."""

from collections.abc import Mapping, Sequence

import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from recprune_export.errors import ModelFileError
from recprune_export.memory_limit import COPIES, available_memory, fits_in_memory
from recprune_export.number_formats import format_bytes
from recprune_export.program.loading.weights.match_names import ExpectedTensors
from recprune_export.program.loading.weights.read_weights import StoredWeights
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.streamed_tables.streamed_table import (
    LOOKUPS,
    StreamedTable,
    find_streamed_tables,
    read_whole,
)


def must_stream(weights: StoredWeights) -> bool:
    """Return whether tensors must stay in their files, because a job on all of them would need more than the available memory."""
    if weights.stream is None:
        return False
    tensors = [leaf for leaf in pytree.tree_leaves(weights.content) if isinstance(leaf, Tensor)]
    return not fits_in_memory(sum(tensor.nbytes for tensor in tensors))


def assign_weights(module: nn.Module, state: Mapping[str, Tensor], expected: ExpectedTensors, source: str) -> None:
    """Replace the tensors of `module` by those of `state`, in the precision of the former; tied tensors stay tied.

    Raises `ModelFileError` for a tensor of the module that has values neither in `state` nor from the factory.
    """
    own = {name: tensor for name, tensor in expected.tensors.items() if name in state}
    tensors = {name: state[name].detach().to(tensor.dtype) for name, tensor in own.items()}
    parameters = {
        name: nn.Parameter(tensors[name], own[name].requires_grad)
        if isinstance(own[name], nn.Parameter)
        else tensors[name]
        for name in own
    }
    for names in expected.ties:
        first = next((parameters[name] for name in sorted(names) if name in parameters), None)
        parameters |= {} if first is None else dict.fromkeys(names, first)
    module.load_state_dict(parameters, strict=False, assign=True)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ModelFileError(
                f"{source} has no '{name}', {list(tensor.shape)}, and the factory does not initialize large tensors of a checkpoint "
                "larger than memory: save it in the checkpoint as well."
            )


def settle_streamed_tables(program: Program) -> Program:
    """Return the program with those streamed tables in memory that are read by other operators than lookups; with a note.

    Raises `ModelError` if such a table does not fit into memory.
    """
    readers: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).extend(node.users)
    tables = find_streamed_tables(program.module)
    whole = {name: table for name, table in tables.items() if not all(map(_looks_up, readers.get(name, ())))}
    if whole:
        loaded = {
            name: nn.Parameter(
                read_whole(table, "the model multiplies it or reads all of it, in addition to looking up its rows"),
                table.requires_grad,
            )
            for name, table in whole.items()
        }
        program = program.with_tensors(loaded)
    return program.with_notes(_describe([table for name, table in tables.items() if name not in whole]))


def _looks_up(reader: fx.Node) -> bool:
    return reader.target in LOOKUPS and isinstance(argument(reader, "indices"), fx.Node)


def _describe(tables: Sequence[StreamedTable]) -> tuple[str, ...]:
    if not tables:
        return ()
    size = sum(table.nbytes for table in tables)
    return (
        f"The model is larger than memory: a job needs {COPIES} times its size, but {format_bytes(available_memory())} are free. "
        f"{len(tables)} tables of {format_bytes(size)} remain in the files of the checkpoint; only their "
        "dimensions are pruned, no weights are "
        "zeroed, and they are not fine-tuned.",
    )
