"""The runtime that the tests run: a copy of its files, or the interpreter that RECPRUNE_RUNTIME_PYTHON names."""

import os

import pytest

from tests.runtime.processes import Runtime, copy_runtime

INSTALLED = "RECPRUNE_RUNTIME_PYTHON"


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    if INSTALLED in os.environ:
        return Runtime(os.environ[INSTALLED])
    return copy_runtime(tmp_path_factory.mktemp("runtime"))
