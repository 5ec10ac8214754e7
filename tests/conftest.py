"""What several tests share: one thread, and small generated files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recprune_export.data import generate_clicks, generate_sequences


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is measured of the machine out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def clicks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clicks") / "clicks.parquet"
    generate_clicks(path, rows=6000, seed=1)
    return path


@pytest.fixture(scope="session")
def sequences_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sequences") / "log.csv"
    generate_sequences(path, rows=4000, seed=1)
    return path
