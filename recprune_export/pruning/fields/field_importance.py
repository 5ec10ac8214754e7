"""Importance of each field: the increase of the loss without it."""

from collections.abc import Sequence

import torch

from recprune_export.channels.groups import Channel
from recprune_export.data.batch import Batch
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_program_tensors
from recprune_export.progress import track
from recprune_export.pruning.apply.masking import Float64Interpreter, Mask, make_mask
from recprune_export.pruning.importance.scores.score_inputs import LossFunction


def field_importance(
    program: Program, channels: Sequence[Channel], batches: Sequence[Batch], loss: LossFunction
) -> list[float]:
    """Return the mean increase of the loss over `batches` when each of `channels`, which represent fields, is masked.

    All lookups of the field's ids are replaced by zero, which equals its removal. So this is exact, but takes one forward pass for each
    field and batch. It is the ablation of one feature (Breiman 2001, "Random Forests", section 10, with zeros in place of the
    permutation). A harmful field has a negative importance.
    """
    dense = _mean_loss(program, Mask(), batches, loss)
    return [
        _mean_loss(program, make_mask(program.analysis, frozenset((channel.identity,))), batches, loss) - dense
        for channel in track(channels, "Measuring fields")
    ]


def _mean_loss(program: Program, mask: Mask, batches: Sequence[Batch], loss: LossFunction) -> float:
    masked = Float64Interpreter(program, mask)
    names = [output.name for output in program.signature.outputs]
    losses = []
    for request, labels in batches:
        answers = masked(*to_program_tensors(program.signature, request))
        losses.append(loss(dict(zip(names, answers, strict=True)), labels))
    return float(torch.stack(losses).mean())
