"""The share of this process of a request or a batch: every N-th row, of N processes."""

from collections.abc import Mapping

from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.distributed.ranks import is_divided
from recprune_export.distributed.shares import take_share
from recprune_export.program.signature import BATCH, Signature


def share_request(signature: Signature, request: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the rows of this process; inputs without a row for each row of the request are whole."""
    if not is_divided():
        return request
    by_row = {i.name for i in signature.inputs if i.shape[:1] == (BATCH,)}
    return {name: take_share(values) if name in by_row else values for name, values in request.items()}


def share_batch(signature: Signature, batch: Batch) -> Batch:
    """Return the rows of this process, and their labels."""
    request, labels = batch
    shared = {name: take_share(values) for name, values in labels.items()} if is_divided() else labels
    return share_request(signature, request), shared
