"""Choose how many batches give enough answers: a model that scores items at each position of a history gives many answers for one row."""

from collections.abc import Iterable, Iterator
from math import prod

from recprune_export.data.batch import Batch
from recprune_export.distributed.collectives import sum_integer
from recprune_export.program.signature import Signature


def count_answers_of_row(signature: Signature) -> int:
    """Return the number of rows of scores in an answer for each row of a request: its axes between the batch and the last one.

    >>> from recprune_export.program.signature import BATCH, Output
    >>> count_answers_of_row(Signature((), (Output("logit", "float32", (BATCH,)), Output("scores", "float32", (BATCH, 20, 1000)))))
    20
    """
    return max((prod(axis for axis in o.shape[1:-1] if isinstance(axis, int)) for o in signature.outputs), default=1)


def take_answers(answers: int, batches: Iterable[Batch], of_row: int, *, divided: bool = False) -> Iterator[Batch]:
    """Yield batches until they give `answers` answers, `of_row` for each row of a request.

    With `divided`, batches are shares of this process, and the answers of all processes count.
    """
    for request, labels in batches:
        yield request, labels
        rows = max(len(values) for values in request.values())
        answers -= of_row * (sum_integer(rows) if divided else rows)
        if answers <= 0:
            return
