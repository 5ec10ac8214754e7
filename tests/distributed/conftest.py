from collections.abc import Iterator

import pytest

from tests.distributed.processes import Processes


def _serve(count: int) -> Iterator[Processes]:
    processes = Processes(count)
    try:
        yield processes
    finally:
        processes.close()


@pytest.fixture(scope="session")
def two() -> Iterator[Processes]:
    yield from _serve(2)


@pytest.fixture(scope="session")
def three() -> Iterator[Processes]:
    yield from _serve(3)
