"""`InputSpec`: the fields of a request, from which a recommender creates its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recprune_export.codec import OMIT_DEFAULT, DictMixin
from recprune_export.data.encoding.input_encoding import HISTORY, NUMERIC

TensorRequest = Mapping[str, Tensor]


@dataclass(frozen=True)
class InputSpec(DictMixin):
    """Numbers of rows of the table of each field (including special ids), lengths of multi-valued fields, and labels.

    `value_scales` has mean and standard deviation of each numeric label; other labels are 0 or 1. For sequences `items` is the number of
    rows of the item table, and `max_length` the length of a history.
    """

    categorical: Mapping[str, int] = field(default_factory=dict)
    multi_valued: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    n_numeric: int = 0
    items: int = 0
    max_length: int = 0
    labels: tuple[str, ...] = ()
    value_scales: Mapping[str, tuple[float, float]] = field(default_factory=dict, metadata=OMIT_DEFAULT)

    def example_request(self, batch: int = 2) -> dict[str, Tensor]:
        """Return a request of zeros with which a model can be captured."""
        if self.items:
            return {HISTORY: torch.zeros(batch, self.max_length, dtype=torch.int64)}
        request = {name: torch.zeros(batch, dtype=torch.int64) for name in self.categorical}
        request |= {name: torch.zeros(batch, self.lengths[name], dtype=torch.int64) for name in self.multi_valued}
        if self.n_numeric:
            request[NUMERIC] = torch.zeros(batch, self.n_numeric)
        return request
