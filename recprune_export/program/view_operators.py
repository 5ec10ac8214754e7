"""Operators that only move data: each output element is a copy of an input element."""

import torch

aten = torch.ops.aten

DATA_MOVEMENT_OPERATORS = frozenset(
    {
        aten.adjoint.default,
        aten.alias.default,
        aten.cat.default,
        aten.chunk.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.expand.default,
        aten.expand_as.default,
        aten.flatten.using_ints,
        aten.flip.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.lift_fresh_copy.default,
        aten.mT.default,
        aten.movedim.int,
        aten.narrow.default,
        aten.numpy_T.default,
        aten.permute.default,
        aten.repeat.default,
        aten.repeat_interleave.self_int,
        aten.reshape.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.split.Tensor,
        aten.split.sizes,
        aten.split_with_sizes.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.stack.default,
        aten.swapaxes.default,
        aten.t.default,
        aten.tensor_split.indices,
        aten.tensor_split.sections,
        aten.tile.default,
        aten.transpose.int,
        aten.unbind.int,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.view.default,
        aten._unsafe_view.default,
    }
)
