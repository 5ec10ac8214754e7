"""The memory that a process may take."""

import subprocess
import sys

import pytest

from recprune_export.memory_limit import COPIES, available_memory, fits_in_memory, read_data_limit

resource = pytest.importorskip("resource")


def test_a_model_fits_where_all_copies_do() -> None:
    free = available_memory()
    assert free > 1 << 20
    assert fits_in_memory(free // (4 * COPIES))
    assert not fits_in_memory(free)


def test_without_a_limit_of_data_segments_there_is_none_to_read() -> None:
    if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
        assert read_data_limit() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("limit", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_limits_of_the_process_count(limit: str) -> None:
    code = (
        f"import resource; from recprune_export.memory_limit import available_memory; "
        f"resource.setrlimit(resource.{limit}, (1 << 30, 1 << 30)); print(available_memory())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(printed) < 1 << 30
