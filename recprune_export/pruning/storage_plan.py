"""`StoragePlan`: the bits of each weight, chosen together with the widths within a byte limit."""

from dataclasses import dataclass
from typing import Annotated, Any

from recprune_export.codec import DictMixin, JsonForm
from recprune_export.stored_bits import StoredBits


@dataclass(frozen=True)
class RatePoint:
    """The predicted loss of the best plan for a number of bytes, in units of the training loss, and its predicted time.

    The `microseconds` are those of lookups and matrix products of one request (`RequestTime`).
    """

    bytes: int
    loss: float
    microseconds: float = 0.0


def _decode_bits(values: Any) -> StoredBits:
    return StoredBits(**values)


@dataclass(frozen=True)
class StoragePlan(DictMixin):
    """The bits of weights, and the point of the plan on the curve of loss over bytes.

    `max_bytes` is the limit, `point` the chosen plan, and `least_loss_estimate` the estimated least loss of any plan with this number of
    bytes, from the dual of the choice. `curve` are the best plans with fewer and with more bytes. Times are predicted for a request of
    `rows` rows.
    """

    bits: Annotated[StoredBits, JsonForm(StoredBits.to_dict, _decode_bits)]
    max_bytes: int
    point: RatePoint
    least_loss_estimate: float
    curve: tuple[RatePoint, ...] = ()
    rows: int = 256
