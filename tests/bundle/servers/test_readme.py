"""The README of a bundle names each file that the model needs."""

from typing import Any

import pytest

from recprune_export.bundle.servers.readme import render_readme
from recprune_export.onnx.runtime.session import SessionOptions

SIGNATURE: dict[str, Any] = {
    "inputs": [{"name": "ids", "dtype": "int64", "shape": ["batch", 2], "ids": [[0, 9], [0, 9]]}],
    "outputs": [{"name": "score", "dtype": "float32", "shape": ["batch"]}],
}


@pytest.mark.parametrize("weights", [None, "model.onnx.data"])
def test_the_file_of_external_weights_is_named_where_there_is_one(weights: str | None) -> None:
    text = render_readme("ctr", SIGNATURE, SessionOptions(), scores={}, encoding=None, weights=weights)
    assert ("model.onnx.data" in text) == (weights is not None)
