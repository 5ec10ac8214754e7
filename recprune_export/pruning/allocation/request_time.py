"""Predicted time of the lookups and matrix products of a request, from measured constants.

Costs that are equal in all plans, such as a call of the session, are not counted, nor are activations, norms and the
products of embeddings with each other. These times therefore compare plans; they are not the time of a request.
"""

from dataclasses import dataclass

from recprune_export.pruning.pruning_constants import LOOKUP_TIMES, MULTIPLICATIONS_PER_MICROSECOND
from recprune_export.pruning.statistics.read_counts import ReadCounts
from recprune_export.stored_bits import effective_bits

DEFAULT_ROWS = 256  # of a request


@dataclass(frozen=True)
class RequestTime:
    """The prediction for requests of `rows` rows, each of which reads the weights `reads` times."""

    reads: ReadCounts
    rows: int = DEFAULT_ROWS

    def predict_table(self, table: str, shape: tuple[int, int], bits: int, *, shares_lookup: bool = False) -> float:
        """Return the microseconds of the reads of a table [rows, dimensions]: lookups by its bits, and products in fp32.

        A table that `shares_lookup` with another one, with which it is fused, has no separate start.
        """
        start, lookup, number = LOOKUP_TIMES[effective_bits(shape, bits, is_table=True)]
        lookups = self.rows * self.reads.lookups.get(table, 0.0)
        products = self.predict_element(table) * shape[0] * shape[1]
        if not lookups:
            return products
        return (0.0 if shares_lookup else start) + lookups * (lookup + number * shape[1]) + products

    def predict_element(self, weight: str) -> float:
        """Return the microseconds of one element of a matrix in all products: the time of its multiplications, which does not depend on
        its bits."""
        return self.rows * self.reads.products.get(weight, 0.0) / MULTIPLICATIONS_PER_MICROSECOND
