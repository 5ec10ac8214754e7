"""`StoragePlan`: the bits of each weight, chosen together with the widths within a number of bytes."""

from dataclasses import dataclass
from typing import Annotated, Any

from recprune_export.codec import DictMixin, JsonForm
from recprune_export.stored_bits import StoredBits


@dataclass(frozen=True)
class RatePoint:
    """The predicted loss of the best plan whose file has so many bytes; the loss is in units of the training loss."""

    bytes: int
    loss: float


def _decode_bits(values: Any) -> StoredBits:
    return StoredBits(**values)


@dataclass(frozen=True)
class StoragePlan(DictMixin):
    """The bits of weights, and the point of the plan on the curve of loss over bytes.

    `max_bytes` is the limit, `point` the chosen plan, and `bound` an estimate of the least loss of any plan with as many
    bytes, by the dual of the choice; `curve` are the best plans with fewer and with more bytes.
    """

    bits: Annotated[StoredBits, JsonForm(StoredBits.to_dict, _decode_bits)]
    max_bytes: int
    point: RatePoint
    bound: float
    curve: tuple[RatePoint, ...] = ()
