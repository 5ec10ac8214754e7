"""What several tests share: one thread, and small generated files."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from recprune_export.api import compress
from recprune_export.data import SchemaOverrides, generate_clicks, generate_sequences
from recprune_export.search import measure_artifact
from recprune_export.training import train
from recprune_export.validation.latency import closed_loop, footprint
from tests.jobs import QUICK

# A change is judged by the same examples as the commit before it; `--hypothesis-profile default` draws new ones.
# Examples have no deadline: the machine of a test may be busy.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What asks for far more memory than such a small model needs fails at once, and does not take the machine down."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is measured of the machine out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def brief_measurements() -> Iterator[None]:
    """Let jobs measure latency and cold starts for a moment only: no test asserts a speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(closed_loop.measure_latency.__kwdefaults__, "seconds", 0.2)
        patch.setattr(closed_loop, "SESSION_SETS", 2)
        patch.setattr(closed_loop, "COLD_ROUNDS", 2)
        patch.setattr(footprint.measure_footprints, "__defaults__", (1,))
        patch.setattr(measure_artifact, "SECONDS", 0.2)
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


@pytest.fixture(scope="session")
def checkpoint(clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    train(
        clicks_file,
        "dlrm",
        path,
        SchemaOverrides(labels=("clicked",)),
        {"dim": 16, "hidden": (64, 32)},
        epochs=2,
        batch_size=256,
    )
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "ctr"
    compress(checkpoint, target=target, data=clicks_file, settings=QUICK)
    return target
