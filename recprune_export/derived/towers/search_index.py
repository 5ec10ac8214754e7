"""An index of the vectors of items, in faiss, and its recall of the exact best items."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.errors import UsageError

# Links of an item, and candidates while it is added (docs/decisions/index-library.md).
NEIGHBORS, CONSTRUCTION = 16, 200
QUANTILES = (1.0, 0.99, 0.9)  # quantiles of the lengths of items, up to which lengths are made equal
RECALL = 0.99  # the breadth of the search doubles until this fraction of the best items is found
DOUBLINGS = 4
CHUNK = 1 << 26  # products in memory at the same time
ROUNDING = 1e-6  # of the largest product: items whose products differ by less count as equal


@dataclass(frozen=True)
class IndexReport(ToDictMixin):
    """A hierarchical small-world graph (HNSW) over `items` vectors of `width` numbers, searched by inner product.

    `recall` is the mean fraction of the exact `k` best items of `queries` users that a search of breadth `search` finds; an item with the
    same product as the last of the best items counts. `quantile`: see `build_index`. Times are of one user on one thread, in µs.
    """

    library: str
    items: int
    width: int
    bytes: int
    vector_bytes: int
    k: int
    queries: int
    recall: float
    search: int
    quantile: float
    build_seconds: float
    search_microseconds: float
    exact_microseconds: float


def import_faiss() -> Any:
    """Return the library. Raises `UsageError` if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            "An index requires faiss: pip install 'recprune-export[index]', or leave out the index with --no-index."
        ) from error
    return faiss


def build_index(vectors: np.ndarray, quantile: float = 1.0) -> Any:
    """Return an HNSW index of vectors [items, width] by inner product; the label of an item is its row.

    A graph of vectors of different lengths may find few of the largest products, because its links lead to the long ones. Each item
    vector gets one more number, so that all have the same length up to the `quantile` of the lengths, and a user's vector gets a 0
    (Bachrach et al. 2014, "Speeding up the Xbox recommender system"): the products stay. The index appends the 0 itself. The same vectors
    give the same index. Malkov and Yashunin 2018.
    """
    faiss = import_faiss()
    width = vectors.shape[1]
    graph = faiss.IndexHNSWFlat(width + 1, NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = CONSTRUCTION
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # items that are added together are linked in any order
    try:
        graph.add(_add_length(vectors, quantile))
    finally:
        faiss.omp_set_num_threads(threads)
    append_zero = faiss.LinearTransform(width, width + 1)
    faiss.copy_array_to_vector(np.eye(width + 1, width, dtype=np.float32).reshape(-1), append_zero.A)
    append_zero.have_bias, append_zero.is_trained = False, True
    index = faiss.IndexPreTransform(append_zero, graph)
    index.ntotal, index.is_trained = graph.ntotal, True
    return index


def _add_length(vectors: np.ndarray, quantile: float) -> np.ndarray:
    """Return vectors [items, width + 1] of one length, except those beyond the quantile; products with [user, 0] are the same."""
    squares = np.square(vectors, dtype=np.float64).sum(axis=1)
    rest = np.sqrt(np.maximum(np.quantile(squares, quantile) - squares, 0.0))
    return np.column_stack([vectors, rest]).astype(np.float32)


def measure_index(vectors: np.ndarray, users: np.ndarray, k: int, path: Path) -> IndexReport:
    """Write an index of `vectors` [items, width] to `path` and measure it on `users` [queries, width].

    The quantile of lengths is the first that finds enough of the exact best items, or else the one that finds most.
    """
    faiss = import_faiss()
    exact, exact_microseconds = _time_queries(lambda user: choose_nearest(vectors, user, k)[0], users)
    best: IndexReport | None = None
    for quantile in QUANTILES:
        start = time.perf_counter()
        index = build_index(vectors, quantile)
        build_seconds = time.perf_counter() - start
        search, recall, microseconds = _choose_breadth(index, users, k, exact)
        if best is None or recall > best.recall:
            faiss.write_index(index, str(path))
            best = IndexReport(
                f"faiss {faiss.__version__}",
                len(vectors),
                vectors.shape[1],
                path.stat().st_size,
                vectors.nbytes,
                k,
                len(users),
                recall,
                search,
                quantile,
                build_seconds,
                microseconds,
                exact_microseconds,
            )
        if recall >= RECALL:
            break
    assert best is not None
    return best


def _choose_breadth(index: Any, users: np.ndarray, k: int, exact: np.ndarray) -> tuple[int, float, float]:
    """Set the smallest breadth of the search that finds enough of the exact best items; return it, the recall and the time per user in
    µs."""
    graph = import_faiss().downcast_index(index.index)
    search, recall, microseconds = k, 0.0, 0.0
    for doubling in range(DOUBLINGS + 1):
        search = k << doubling
        graph.hnsw.efSearch = search
        products, microseconds = _time_queries(lambda user: index.search(user, k)[0], users)
        recall = measure_recall(products, exact)
        if recall >= RECALL:
            break
    return search, recall, microseconds


def choose_nearest(vectors: np.ndarray, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` largest inner products of each of `users` [queries, width], in order, and the rows of their items, by exact
    search."""
    at_once = max(1, CHUNK // len(vectors))
    parts = [_choose_of_chunk(vectors, users[start : start + at_once], k) for start in range(0, len(users), at_once)]
    best, rows = (np.concatenate(of) for of in zip(*parts, strict=True))
    return best, rows


def _choose_of_chunk(vectors: np.ndarray, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    products = users @ vectors.T
    rows = np.argpartition(-products, k - 1, axis=1)[:, :k]
    best = np.take_along_axis(products, rows, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)


def measure_recall(products: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean fraction of the exact best products [queries, k] among the found `products` [queries, k].

    >>> measure_recall(np.array([[0.9, 0.5, 0.1]]), np.array([[0.9, 0.5, 0.4]])).__round__(2)
    0.67
    """
    rounding = ROUNDING * np.abs(exact).max(axis=1, keepdims=True)
    return float((products >= exact[:, -1:] - rounding).mean())


def _time_queries(search: Callable[[np.ndarray], np.ndarray], users: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the products that `search` finds for each user, and the median time of one user in µs."""
    products, times = [], []
    for user in users:
        start = time.perf_counter()
        products.append(search(user[None]))
        times.append(time.perf_counter() - start)
    return np.concatenate(products), float(np.median(times)) * 1e6
