"""Golden request and response in JSON of the KServe v2 protocol (Open Inference Protocol), which Triton supports as well."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from recprune_export.bundle.servers.triton import TYPES, reshape_for_triton

REQUEST = "samples/kserve-request.json"
RESPONSE = "samples/kserve-response.json"
_ID = "golden"


def kserve_samples(
    model: str, request: Mapping[str, np.ndarray], response: Mapping[str, np.ndarray], *, batched: bool
) -> dict[str, bytes]:
    """Return request and response by their names in the bundle; empty if a value is not finite, which JSON cannot represent.

    With `batched` they have the shapes that Triton expects of a model with batching.
    """
    if not all(np.isfinite(values).all() for values in (*request.values(), *response.values())):
        return {}
    request_json = {"id": _ID, "inputs": _tensors(request, batched), "outputs": [{"name": name} for name in response]}
    response_json = {"model_name": model, "model_version": "1", "id": _ID, "outputs": _tensors(response, batched)}
    return {REQUEST: _json(request_json), RESPONSE: _json(response_json)}


def _tensors(arrays: Mapping[str, np.ndarray], batched: bool) -> list[dict[str, Any]]:
    return [_tensor(name, reshape_for_triton(values, batched)) for name, values in arrays.items()]


def _tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    """Return a tensor in row-major order; a float32 survives the round trip through the decimals of its float64 exactly."""
    data = values.ravel().tolist()
    return {"name": name, "shape": list(values.shape), "datatype": TYPES[values.dtype.name], "data": data}


def _json(values: Any) -> bytes:
    return json.dumps(values, allow_nan=False).encode()
