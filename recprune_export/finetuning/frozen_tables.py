"""Tables that tuning does not change: buffers of a program that shares all other tensors with the tuned program."""

from collections.abc import Collection

import torch

from recprune_export.program.program import Program


def freeze_tables(program: Program, names: Collection[str]) -> Program:
    """Return a program with the tensors of `program`, in which the parameters `names` are buffers outside its state.

    So they have no masks, gradients or moments, and are not part of snapshots.
    """
    frozen = program.with_copied_graph()
    for target in names:
        owner_name, _, name = target.rpartition(".")
        owner = frozen.module.get_submodule(owner_name)
        table: torch.Tensor = getattr(owner, name)
        delattr(owner, name)
        owner.register_buffer(name, table.detach(), persistent=False)
    return frozen
