"""Cycles of different requests, as in real traffic.

If one request is repeated, the table rows that it looks up stay in the caches, unlike those of a new user: a lookup of 6,656 rows in a
table of 20 MB then takes 134 µs, but 445 µs with ids that were not looked up just before.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recprune_export.program.requests.random_requests import RequestArrays, sample_request
from recprune_export.program.signature import Signature
from recprune_export.validation.edge_requests import (
    count_candidates,
    expand_shared_inputs,
    repeat_rows,
    squeeze_shared_inputs,
)
from recprune_export.validation.latency.latency_constants import CYCLE_ROWS, MAX_REQUESTS, MIN_REQUESTS, MOST_ROWS

RequestCycle = Sequence[RequestArrays]  # of one batch size; round r has request r % len
RequestCycles = Mapping[int, RequestCycle]  # by batch size


def count_requests(batch: int) -> int:
    """Return the number of requests in a cycle of this batch size.

    >>> [count_requests(batch) for batch in (1, 32, 256, 1024, 16_384)]
    [512, 256, 32, 16, 4]
    """
    fewest = min(MIN_REQUESTS, max(MOST_ROWS // batch, 2))
    return min(max(CYCLE_ROWS // batch, fewest), MAX_REQUESTS)


def count_cycle_rows(batches: Iterable[int]) -> int:
    """Return the number of rows for cycles of these batch sizes without repeated rows."""
    return max(batch * count_requests(batch) for batch in batches)


def split_into_cycles(
    rows: Mapping[str, np.ndarray], batches: Iterable[int], signature: Signature, seed: int
) -> dict[int, RequestCycle]:
    """Split rows, such as those of a test set, into a cycle of requests for each batch size.

    Rows are shuffled, since files are often sorted by user. If there are too few rows, they repeat, but no two requests of a cycle begin
    with the same row, so there are also fewer requests. For inputs that candidates share, all rows of a request equal its first one.
    """
    order = np.random.default_rng(seed).permutation(count_candidates(rows))
    shuffled = {name: values[order] for name, values in rows.items()}

    def request(start: int, batch: int) -> RequestArrays:
        return expand_shared_inputs(squeeze_shared_inputs(repeat_rows(shuffled, batch, start), signature), signature)

    starts = {
        batch: dict.fromkeys(number * batch % len(order) for number in range(count_requests(batch)))
        for batch in batches
    }
    return {batch: tuple(request(start, batch) for start in cycle_starts) for batch, cycle_starts in starts.items()}


def sample_cycles(signature: Signature, batches: Iterable[int], seed: int) -> dict[int, RequestCycle]:
    """Draw a cycle of requests for each batch size from `signature`; shared inputs have one row per request."""
    seeds = np.random.SeedSequence(seed)
    cycles: dict[int, RequestCycle] = {}
    for batch in batches:
        cycle_seeds = seeds.spawn(1)[0].generate_state(count_requests(batch))
        cycles[batch] = tuple(sample_request(signature, batch, int(cycle_seed)) for cycle_seed in cycle_seeds)
    return cycles
