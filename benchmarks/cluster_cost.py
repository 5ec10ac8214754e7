"""The cost of a training step of a recommender on a cluster: bytes over the network, seconds and memory, as small functions.

Tables lie in shards, one for each rank. A lookup sends every id that the rows of a rank need once to the rank that holds it, and gets the
row; the backward pass sends the sum of the gradients of each row there (`recprune_export/distributed/sharded_lookup.py`). Times follow
Hockney's model: a message takes a latency, and its bytes divided by the bandwidth (R. Hockney 1994, "The communication challenge
for MPP"); the algorithms of collectives are those of R. Thakur, R. Rabenseifner and W. Gropp 2005, "Optimization of collective
communication operations in MPICH", sections 4.4 (pairwise exchange) and 4.5 (ring). Nothing overlaps, as in the tool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ID, NUMBER = 8, 4  # bytes of an id, and of a weight
EXCHANGES = 4  # of a table in a step: counts, ids, rows, gradients
PAGE = 4096  # bytes of memory that a touched row takes at least
SHARDINGS = ("cyclic", "hash", "block")


@dataclass(frozen=True)
class Fabric:
    """A network: bytes a second of each rank in each direction, and the seconds of a message without content."""

    name: str
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Rates:
    """What a core does: multiply-adds of layers, and seconds for a row that is looked up and updated, and for an id that is sorted."""

    flops: float
    row_seconds: float
    id_seconds: float


@dataclass(frozen=True)
class Model:
    """Rows of each table, their width, and the parameters of the layers that every rank has."""

    tables: tuple[int, ...]
    width: int
    dense_parameters: int


@dataclass(frozen=True)
class TableTraffic:
    """Bytes that each rank sends, and that it receives, for the lookups of one table in one step, int64 [ranks]."""

    sent: np.ndarray
    received: np.ndarray
    different: np.ndarray  # ids of each rank, each once
    asked: np.ndarray  # rows that each rank looks up for others and itself


def draw_ids(rng: np.random.Generator, rows: int, count: int, exponent: float) -> np.ndarray:
    """Draw ids whose probability falls as 1 / (id + 1) ** exponent, int64 [count]: 0 is uniform, 1 the usual power law.

    By the inverse of the continuous distribution on [1, rows + 1).

    >>> ids = draw_ids(np.random.default_rng(0), 10**9, 10_000, 1.0)
    >>> bool(ids.min() >= 0), bool(ids.max() < 10**9), bool((ids < 1000).mean() > 0.3)
    (True, True, True)
    """
    u = rng.random(count)
    if exponent == 1.0:
        x = (rows + 1.0) ** u
    else:
        power = 1.0 - exponent
        x = (((rows + 1.0) ** power - 1.0) * u + 1.0) ** (1.0 / power)
    return np.minimum(x.astype(np.int64) - 1, rows - 1)


def find_owners(ids: np.ndarray, rows: int, ranks: int, sharding: str) -> np.ndarray:
    """Return the rank that holds each id: every N-th row (cyclic), rows in a row (block), or by a hash.

    >>> [find_owners(np.arange(4), 4, 2, sharding).tolist() for sharding in ("cyclic", "block")]
    [[0, 1, 0, 1], [0, 0, 1, 1]]
    """
    if sharding == "cyclic":
        return ids % ranks
    if sharding == "block":
        return ids // -(-rows // ranks)
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, volume 3, section 6.4
    return ((mixed >> np.uint64(32)) % np.uint64(ranks)).astype(np.int64)


def count_exchange(ids_by_rank: Sequence[np.ndarray], rows: int, width: int, sharding: str = "cyclic") -> TableTraffic:
    """Return the bytes of a lookup and its backward pass where each rank has its own ids of one table.

    A rank sends a count of 8 bytes to each other rank, 8 bytes for each different id that another rank holds, 4·width bytes for each
    row that others ask of it, and as many for the gradient of each row that it asked of others.

    >>> traffic = count_exchange([np.array([0, 1, 1]), np.array([1, 3])], rows=4, width=16)
    >>> traffic.sent.tolist(), traffic.received.tolist()  # 8 + 8 + 64 of a gradient; 8 + 64 of a row
    ([80, 72], [72, 80])
    """
    ranks = len(ids_by_rank)
    asks = np.zeros((ranks, ranks), dtype=np.int64)  # [asking, asked]
    for rank, ids in enumerate(ids_by_rank):
        asks[rank] = np.bincount(find_owners(np.unique(ids), rows, ranks, sharding), minlength=ranks)
    away = asks - np.diag(np.diag(asks))
    out, back = away.sum(1), away.sum(0)
    row = NUMBER * width
    counts = ID * (ranks - 1)
    sent = counts + ID * out + row * back + row * out
    received = counts + ID * back + row * out + row * back
    return TableTraffic(sent, received, asks.sum(1), asks.sum(0))


def count_all_reduce(size: int, ranks: int) -> float:
    """Return the bytes that each rank sends for the sum of `size` bytes by the ring: Thakur et al., section 4.5."""
    return 2.0 * size * (ranks - 1) / ranks


def count_lookup_by_all_reduce(lookups: int, width: int, ranks: int) -> float:
    """Return the bytes that each rank sends where rows are summed instead: all ids to all, zeros for rows of others, all-reduce.

    `lookups` are those of one rank for one table; the gradients of all of them go to all ranks. Duplicates are sent as often as they occur.
    """
    ids = ID * lookups * (ranks - 1)
    rows = count_all_reduce(NUMBER * width * lookups * ranks, ranks)
    gradients = NUMBER * width * lookups * (ranks - 1)
    return ids + rows + gradients


def time_exchanges(fabric: Fabric, ranks: int, traffic: Sequence[TableTraffic], calls: int) -> float:
    """Return the seconds of `calls` exchanges, each of N - 1 messages one after the other, with the bytes of the busiest rank."""
    busiest = sum(np.maximum(t.sent, t.received) for t in traffic).max()  # type: ignore[union-attr]
    return calls * (ranks - 1) * fabric.latency + float(busiest) / fabric.bandwidth


def time_all_reduce(fabric: Fabric, size: int, ranks: int) -> float:
    """Return the seconds of an all-reduce by the ring: 2·(N - 1) messages."""
    return 2 * (ranks - 1) * fabric.latency + count_all_reduce(size, ranks) / fabric.bandwidth


def time_compute(rates: Rates, model: Model, batch: int, traffic: Sequence[TableTraffic]) -> float:
    """Return the seconds of the busiest core: 6 operations for each dense parameter and row (2 forward, 4 backward), rows, and ids."""
    asked = sum(t.asked for t in traffic).max()  # type: ignore[union-attr]
    ids = batch * len(model.tables)
    return (
        6.0 * model.dense_parameters * batch / rates.flops + float(asked) * rates.row_seconds + ids * rates.id_seconds
    )


def expect_touched_pages(rows: int, width: int, draws: float, exponent: float) -> float:
    """Return the expected fraction of pages of a table of which some row was drawn, in `draws` draws by the power law.

    Rows of a shard are laid out as they are numbered, so neighbors in a page are about as frequent. Bins of rows that grow by 1 %.
    """
    edges = np.unique(np.concatenate([np.arange(1, 200), np.geomspace(200, rows + 1, 2000)]).clip(1, rows + 1))
    if exponent == 1.0:
        cumulative = np.log(edges) / np.log(rows + 1.0)
    else:
        power = 1.0 - exponent
        cumulative = (edges**power - 1.0) / ((rows + 1.0) ** power - 1.0)
    mass, count = np.diff(cumulative), np.diff(edges)
    per_page = max(1.0, PAGE / (NUMBER * width))
    untouched = np.exp(-draws * mass / count * per_page)
    return float((count * (1.0 - untouched)).sum() / rows)


def count_memory(
    model: Model, ranks: int, batch: int, different: float, touched: Sequence[float]
) -> Mapping[str, float]:
    """Return bytes of a rank: its shards, two moments on touched pages, layers with gradients and moments, and rows in flight.

    `different` are the ids of a rank in a step, of all tables; each is held as a row, its gradient, and once more for the exchange.
    """
    row = NUMBER * model.width
    return {
        "weights": sum(model.tables) * row / ranks,
        "moments": sum(2.0 * fraction * rows * row for rows, fraction in zip(model.tables, touched, strict=True))
        / ranks,
        "layers": 4.0 * NUMBER * model.dense_parameters,
        "rows in flight": 3.0 * row * different + 2.0 * row * batch * len(model.tables),
    }
