"""How much each field matters: what the loss rises to without it."""

from collections.abc import Sequence

import torch

from recprune_export.channels.groups import Channel
from recprune_export.data.batch import Batch
from recprune_export.program.program import Program
from recprune_export.progress import track
from recprune_export.pruning.apply.masking import Float64Interpreter, Mask, make_mask
from recprune_export.pruning.importance.scores.score_inputs import LossFunction


def field_importance(
    program: Program, channels: Sequence[Channel], batches: Sequence[Batch], loss: LossFunction
) -> list[float]:
    """Return the mean rise of the loss over `batches` when each of `channels`, which stand for fields, is masked.

    Everything that the field's ids look up is replaced by zero, which is what removing it comes to; so this is no
    estimate, but takes one forward pass for each field and batch. It is the ablation of one feature (Breiman 2001, "Random
    Forests", section 10, with zeros for the permutation). A field that does harm has a negative importance.
    """
    dense = _mean_loss(program, Mask(), batches, loss)
    return [
        _mean_loss(program, make_mask(program.analysis, frozenset((channel.identity,))), batches, loss) - dense
        for channel in track(channels, "Fields")
    ]


def _mean_loss(program: Program, mask: Mask, batches: Sequence[Batch], loss: LossFunction) -> float:
    without = Float64Interpreter(program, mask)
    names = [output.name for output in program.signature.outputs]
    losses = []
    for request, labels in batches:
        answers = without(*(request[i.name] for i in program.signature.inputs))
        losses.append(loss(dict(zip(names, answers, strict=True)), labels))
    return float(torch.stack(losses).mean())
