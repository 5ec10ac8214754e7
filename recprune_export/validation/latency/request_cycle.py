"""Different requests that take turns, as traffic has them.

Whoever sends one request again and again finds the rows of the tables that it looks up in the caches, where those of the next
user never are: a lookup of 6,656 rows in a table of 20 MB takes 134 µs so, and 445 µs with ids that were not asked for
just before.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recprune_export.program.random_requests import RequestArrays, sample_request
from recprune_export.program.signature import Signature
from recprune_export.validation.edge_requests import (
    count_candidates,
    expand_shared_inputs,
    repeat_rows,
    squeeze_shared_inputs,
)

RequestCycle = Sequence[RequestArrays]  # of one batch size; round r asks for number r % len
RequestCycles = Mapping[int, RequestCycle]  # by batch size

ROWS = 8192  # until rows come back; in a DLRM of 26 fields they are 213,000 rows of tables, more than a cache holds
# Requests: large batches take memory, and of small ones a session is asked no more than that at once.
MIN_REQUESTS, MAX_REQUESTS = 16, 512
MOST_ROWS = 1 << 16  # of all requests together, where that leaves two: histories are long


def count_requests(batch: int) -> int:
    """Return of how many requests a rotation of this batch size should have.

    >>> [count_requests(batch) for batch in (1, 32, 256, 1024, 16_384)]
    [512, 256, 32, 16, 4]
    """
    fewest = min(MIN_REQUESTS, max(MOST_ROWS // batch, 2))
    return min(max(ROWS // batch, fewest), MAX_REQUESTS)


def count_cycle_rows(batches: Iterable[int]) -> int:
    """Return how many rows make rotations of these batch sizes in which no row comes twice."""
    return max(batch * count_requests(batch) for batch in batches)


def split_into_cycles(
    rows: Mapping[str, np.ndarray], batches: Iterable[int], signature: Signature, seed: int
) -> dict[int, RequestCycle]:
    """Cut rows, such as those of a test set, into a rotation for each batch size.

    Rows are dealt in random order, for files are often sorted by user. Where there are too few they come again, but no two
    requests of a rotation begin with the same one, so that there are fewer requests as well. Of inputs that candidates share all rows
    of a request are its first one.
    """
    order = np.random.default_rng(seed).permutation(count_candidates(rows))
    dealt = {name: values[order] for name, values in rows.items()}

    def request(start: int, batch: int) -> RequestArrays:
        return expand_shared_inputs(squeeze_shared_inputs(repeat_rows(dealt, batch, start), signature), signature)

    starts = {
        batch: dict.fromkeys(number * batch % len(order) for number in range(count_requests(batch)))
        for batch in batches
    }
    return {batch: tuple(request(start, batch) for start in of) for batch, of in starts.items()}


def sample_cycles(signature: Signature, batches: Iterable[int], seed: int) -> dict[int, RequestCycle]:
    """Draw a rotation for each batch size from what `signature` allows; of what is shared each request has a row of its own."""
    seeds = np.random.SeedSequence(seed)
    found: dict[int, RequestCycle] = {}
    for batch in batches:
        own = seeds.spawn(1)[0].generate_state(count_requests(batch))
        found[batch] = tuple(sample_request(signature, batch, int(each)) for each in own)
    return found
