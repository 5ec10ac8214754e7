"""Two towers taken apart and indexed: recall@100 and time of each index against the exact search, for dense and pruned vectors.

Trains `two_tower` for two epochs, prunes it, splits the bundle, and asks for the best items of all test users. Libraries that are not
installed are left out. Prints a table, and JSON as the last line.

    python benchmarks/bench_towers.py ../shared/data/anime.parquet
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recprune_export.api import compress
from recprune_export.data import SchemaOverrides
from recprune_export.derived.towers import build_index, choose_nearest, measure_recall
from recprune_export.pipeline.towers import ItemSource, split_bundle
from recprune_export.training import train

ITEM_COLUMNS = ("item", "type", "main_genre", "genres", "episodes", "n_genres")
K, BREADTH, LINKS, CONSTRUCTION = 100, 200, 16, 200
Search = Callable[[np.ndarray], np.ndarray]  # a user to the products of the best items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--sparsity", type=float, default=0.7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report(arguments.data, Path(scratch), arguments.epochs, arguments.sparsity)


def report(data: Path, folder: Path, epochs: int, sparsity: float) -> None:
    rows = pl.read_parquet(data)
    rows.select(ITEM_COLUMNS).unique("item", keep="first", maintain_order=True).write_parquet(folder / "items.parquet")
    rows.filter(pl.col("split") == "test").select("user").unique(maintain_order=True).write_parquet(
        folder / "users.parquet"
    )
    overrides = SchemaOverrides(labels=("label",), ignore=("rating",))
    train(data, "two_tower", folder / "model.pt", overrides, epochs=epochs)
    compress(folder / "model.pt", target=folder / "bundle", data=data, sparsity=sparsity, epochs=1, quick=True)
    source = ItemSource(folder / "items.parquet", users=folder / "users.parquet", k=K)
    towers = split_bundle(folder / "bundle", source=source).towers
    index = towers["index"]
    print(f"{towers['formula']}; {index['items']} items, {index['queries']} test users, best {K}")
    for model, of in (("pruned", index), ("dense", index["dense"])):
        print(
            f"{model:8} {of['width']:3} numbers  index {of['bytes'] / 1e6:.2f} MB  vectors {of['vector_bytes'] / 1e6:.2f} MB  recall "
            f"{of['recall']:.4f}  {of['search_microseconds']:.0f} us a user, exactly {of['exact_microseconds']:.0f} us"
        )
    print(f"the pruned model shares {index['dense']['same_best_items']:.1%} of the dense model's best items")
    libraries = compare_libraries(folder / "bundle", index["queries"])
    print(json.dumps({"towers": {**towers, "parity": towers["parity"]["passed"]}, "libraries": libraries}))


def compare_libraries(bundle: Path, queries: int) -> dict[str, dict[str, float]]:
    """Return recall, seconds to build, bytes and time of each library on the items of a bundle, at the same parameters."""
    from recprune_export.onnx import make_session, run
    from recprune_export.program import Signature, sample_request

    vectors = np.load(bundle / "items.npy")
    manifest = json.loads((bundle / "manifest.json").read_text())
    signature = Signature.from_dict(manifest["models"]["user.onnx"]["signature"])
    users = run(make_session(bundle / "user.onnx", 1), sample_request(signature, queries, seed=0))["user_vector"]
    exact, _ = choose_nearest(vectors, users, K)
    results = {}
    for name, make in {
        "faiss": index_by_faiss, "faiss, vectors as they are": index_plain, "hnswlib": index_by_hnswlib, "usearch": index_by_usearch
    }.items():  # fmt: skip
        try:
            start = time.perf_counter()
            search, size = make(vectors)
        except ImportError:
            continue
        built = time.perf_counter() - start
        start = time.perf_counter()
        found = np.concatenate([search(user[None]) for user in users])
        each = (time.perf_counter() - start) / len(users)
        results[name] = {
            "recall": measure_recall(found, exact), "build_seconds": built, "bytes": size, "microseconds": each * 1e6
        }  # fmt: skip
        print(f"{name:28} " + "  ".join(f"{key} {value:,.4g}" for key, value in results[name].items()))
    return results


def add_length(vectors: np.ndarray, longest: float | None = None) -> np.ndarray:
    squares = np.square(vectors).sum(1)
    rest = np.zeros(len(vectors)) if longest is None else np.sqrt(np.maximum(longest - squares, 0))
    return np.column_stack([vectors, rest]).astype(np.float32)


def index_by_faiss(vectors: np.ndarray) -> tuple[Search, int]:
    import faiss

    index = build_index(vectors)
    faiss.downcast_index(index.index).hnsw.efSearch = BREADTH
    return lambda user: index.search(user, K)[0], faiss.serialize_index(index).nbytes


def index_plain(vectors: np.ndarray) -> tuple[Search, int]:
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = CONSTRUCTION, BREADTH
    index.add(vectors)
    return lambda user: index.search(user, K)[0], faiss.serialize_index(index).nbytes


def index_by_hnswlib(vectors: np.ndarray) -> tuple[Search, int]:
    import hnswlib

    longest = float(np.square(vectors).sum(1).max())
    index: Any = hnswlib.Index("ip", vectors.shape[1] + 1)
    index.init_index(len(vectors), M=LINKS, ef_construction=CONSTRUCTION)
    index.add_items(add_length(vectors, longest), num_threads=1)
    index.set_ef(BREADTH)
    return lambda user: 1.0 - index.knn_query(add_length(user), K)[1], index.index_file_size()


def index_by_usearch(vectors: np.ndarray) -> tuple[Search, int]:
    from usearch.index import Index

    longest = float(np.square(vectors).sum(1).max())
    index: Any = Index(
        ndim=vectors.shape[1] + 1, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=CONSTRUCTION, expansion_search=BREADTH
    )  # fmt: skip
    index.add(np.arange(len(vectors)), add_length(vectors, longest), threads=1)
    return lambda user: 1.0 - np.asarray(index.search(add_length(user)[0], K).distances)[None], index.serialized_length


if __name__ == "__main__":
    main()
