"""An index of the vectors of items, in faiss, and how many of the exact best items it finds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.errors import UsageError

NEIGHBORS, CONSTRUCTION = (
    32,
    200,
)  # links of an item, and candidates while it is added (docs/decisions/index-library.md)
RECALL = 0.99  # the breadth of the search doubles until so many of the best items are found
DOUBLINGS = 4
ROUNDING = 1e-6  # of the largest product: items whose products differ by less are equal


@dataclass(frozen=True)
class IndexReport(ToDictMixin):
    """A hierarchical small-world graph (HNSW) over `items` vectors of `width` numbers, searched by inner product.

    `recall` is the mean fraction of the exact `k` best items of `queries` users that a search of breadth `search` finds; an item of the
    same product as the last of the best counts. Times are of one user on one thread, in µs.
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
    build_seconds: float
    search_microseconds: float
    exact_microseconds: float


def import_faiss() -> Any:
    """Return the library. Raises `UsageError` where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            "An index needs faiss: pip install 'recprune-export[index]', or leave the index out by --no-index."
        ) from error
    return faiss


def build_index(vectors: np.ndarray) -> Any:
    """Return an HNSW index of vectors [items, width] by inner product; the label of an item is its row.

    A graph of the vectors as they are finds few of the largest products, for its links lead to long vectors. Each item gets one more
    number, by which all have the same length, and a user's is 0 (Bachrach et al. 2014, "Speeding up the Xbox recommender system"): the
    products stay, and near vectors are those of large products. The index adds the 0 itself. The same vectors give the same index.
    Malkov and Yashunin 2018.
    """
    faiss = import_faiss()
    width = vectors.shape[1]
    graph = faiss.IndexHNSWFlat(width + 1, NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = CONSTRUCTION
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # items that are added at once are linked in any order
    try:
        graph.add(_add_length(vectors))
    finally:
        faiss.omp_set_num_threads(threads)
    append_zero = faiss.LinearTransform(width, width + 1)
    faiss.copy_array_to_vector(np.eye(width + 1, width, dtype=np.float32).reshape(-1), append_zero.A)
    append_zero.have_bias, append_zero.is_trained = False, True
    index = faiss.IndexPreTransform(append_zero, graph)
    index.ntotal, index.is_trained = graph.ntotal, True
    return index


def _add_length(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [items, width + 1], all of the length of the longest, whose products with [user, 0] are the same."""
    squares = np.square(vectors, dtype=np.float64).sum(axis=1)
    rest = np.sqrt(np.maximum(squares.max() - squares, 0.0))
    return np.column_stack([vectors, rest]).astype(np.float32)


def measure_index(vectors: np.ndarray, users: np.ndarray, k: int, path: Path) -> IndexReport:
    """Build an index of `vectors` [items, width], set the breadth of its search on `users` [queries, width], and write it to `path`."""
    faiss = import_faiss()
    start = time.perf_counter()
    index = build_index(vectors)
    build_seconds = time.perf_counter() - start
    exact, exact_microseconds = _time_queries(lambda user: choose_nearest(vectors, user, k)[0], users)
    recall, search, microseconds = 0.0, k, 0.0
    for doubling in range(DOUBLINGS + 1):
        search = k << doubling
        faiss.downcast_index(index.index).hnsw.efSearch = search
        found, microseconds = _time_queries(lambda user: index.search(user, k)[0], users)
        recall = measure_recall(found, exact)
        if recall >= RECALL:
            break
    faiss.write_index(index, str(path))
    return IndexReport(
        f"faiss {faiss.__version__}",
        len(vectors),
        vectors.shape[1],
        path.stat().st_size,
        vectors.nbytes,
        k,
        len(users),
        recall,
        search,
        build_seconds,
        microseconds,
        exact_microseconds,
    )


def choose_nearest(vectors: np.ndarray, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` largest inner products of each of `users` [queries, width], in order, and the rows of their items, by all products."""
    products = users @ vectors.T
    rows = np.argpartition(-products, k - 1, axis=1)[:, :k]
    best = np.take_along_axis(products, rows, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)


def measure_recall(products: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean fraction of the exact best products [queries, k] among `products` [queries, k], which were found.

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
