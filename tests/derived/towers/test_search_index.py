"""The index gives exact products and finds most of the largest, also among vectors of very different lengths."""

from pathlib import Path

import numpy as np
import pytest

from recprune_export.derived.towers import choose_nearest, measure_index, search_index

faiss = pytest.importorskip("faiss")


def draw(mean: float) -> np.ndarray:
    """Vectors of very different lengths, around a common one that is `mean` times their spread."""
    rng = np.random.default_rng(0)
    return ((rng.normal(size=(2000, 12)) + mean) * rng.lognormal(0.0, 0.4, (2000, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return draw(0.0)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_the_report_is_of_the_file_that_is_written(mean: float, tmp_path: Path) -> None:
    vectors = draw(mean)
    users = np.random.default_rng(1).normal(size=(50, 12)).astype(np.float32)
    report = measure_index(vectors, users, 20, tmp_path / "items.faiss")
    index = faiss.read_index(str(tmp_path / "items.faiss"))
    products, rows = index.search(users, 20)
    best, _ = choose_nearest(vectors, users, 20)
    assert report.bytes == (tmp_path / "items.faiss").stat().st_size
    assert report.recall == pytest.approx((products >= best[:, -1:] - 1e-5).mean())
    assert report.recall >= 0.99
    assert np.allclose(products, np.take_along_axis(users @ vectors.T, rows, 1), rtol=1e-4, atol=1e-4)


def test_the_same_vectors_give_the_same_index(vectors: np.ndarray) -> None:
    first, second = (faiss.serialize_index(search_index.build_index(vectors)) for _ in range(2))
    assert np.array_equal(first, second)


def test_the_exact_search_is_in_chunks(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    users = np.random.default_rng(2).normal(size=(7, 12)).astype(np.float32)
    whole = choose_nearest(vectors, users, 5)
    monkeypatch.setattr(search_index, "CHUNK", 2 * len(vectors))
    chunked = choose_nearest(vectors, users, 5)
    assert np.array_equal(whole[1], chunked[1])
    assert np.array_equal(whole[1], np.argsort(-(users @ vectors.T), axis=1)[:, :5])


def test_all_items_may_be_asked_for(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert measure_index(vectors, vectors, 4, tmp_path / "items.faiss").recall == 1.0
