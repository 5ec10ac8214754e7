"""KServe: golden request and response in JSON of its v2 protocol (Open Inference Protocol), and an `InferenceService`.

Servers that pass tensors to ONNX Runtime unchanged, such as mlserver, use the shapes of the model. Triton uses others if it batches
requests: one number for each row has shape [rows, 1].
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.bundle.servers.triton import TYPES, make_model_name, reshape_for_triton

REQUEST = "samples/kserve-request.json"
RESPONSE = "samples/kserve-response.json"
TRITON_REQUEST = "samples/triton-request.json"
TRITON_RESPONSE = "samples/triton-response.json"
INFERENCE_SERVICE = "kserve/inference-service.yaml"
_ID = "golden"

_SERVICE = """\
# Upload the folder triton/ of this bundle, and give its place as storageUri.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      protocolVersion: v2
      storageUri: STORAGE_URI  # such as s3://models/{name}/triton
"""


def make_served_name(bundle: str, file: str = MODEL) -> str:
    """Return the name by which a server knows an ONNX file of a bundle.

    >>> make_served_name("ctr v2"), make_served_name("ctr", "model.raw.onnx"), make_served_name("ctr", "user.onnx")
    ('ctr_v2', 'ctr.raw', 'ctr.user')
    """
    name = make_model_name(bundle)
    return name if file == MODEL else f"{name}.{file.removesuffix('.onnx').removeprefix('model.')}"


def list_sample_names(file: str = MODEL) -> tuple[str, str]:
    """Return the names of the golden request and response of an ONNX file.

    >>> list_sample_names("model.raw.onnx")[0]
    'samples/model.raw-kserve-request.json'
    """
    if file == MODEL:
        return REQUEST, RESPONSE
    stem = file.removesuffix(".onnx")
    return f"samples/{stem}-kserve-request.json", f"samples/{stem}-kserve-response.json"


def make_kserve_samples(
    bundle: str, request: Mapping[str, np.ndarray], response: Mapping[str, np.ndarray], file: str = MODEL
) -> dict[str, bytes]:
    """Return request and response of an ONNX file in the shapes of the file, by their names in the bundle. All values must be finite."""
    return _make_pair(make_served_name(bundle, file), request, response, list_sample_names(file))


def make_triton_samples(
    bundle: str, request: Mapping[str, np.ndarray], response: Mapping[str, np.ndarray], *, batched: bool
) -> dict[str, bytes]:
    """Return request and response in the shapes of Triton; empty if these are the shapes of the model."""
    asked, answered = (
        {name: reshape_for_triton(values, batched) for name, values in arrays.items()} for arrays in (request, response)
    )
    unchanged = all(asked[name].shape == values.shape for name, values in request.items())
    unchanged &= all(answered[name].shape == values.shape for name, values in response.items())
    names = (TRITON_REQUEST, TRITON_RESPONSE)
    return {} if unchanged else _make_pair(make_served_name(bundle), asked, answered, names)


def make_inference_service(bundle: str) -> bytes:
    """Return the `InferenceService` that serves the folder `triton/` of a bundle; the user fills in its location.

    Its name is a valid DNS name: lower-case letters, digits and hyphens.
    """
    name = re.sub(r"[^a-z0-9]+", "-", bundle.lower()).strip("-") or "model"
    name = name if name[0].isalpha() else f"model-{name}"
    return _SERVICE.format(name=name[:50].rstrip("-")).encode()


def _make_pair(
    model: str, request: Mapping[str, np.ndarray], response: Mapping[str, np.ndarray], names: tuple[str, str]
) -> dict[str, bytes]:
    request_json = {"id": _ID, "inputs": _tensors(request), "outputs": [{"name": name} for name in response]}
    response_json = {"model_name": model, "model_version": "1", "id": _ID, "outputs": _tensors(response)}
    return dict(zip(names, (_json(request_json), _json(response_json)), strict=True))


def _tensors(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [_tensor(name, values) for name, values in arrays.items()]


def _tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    """Return a tensor in row-major order; a float32 survives the round trip through the decimals of its float64 exactly."""
    datatype = TYPES[values.dtype.name] if values.dtype.kind in "biuf" else "BYTES"
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.ravel().tolist()}


def _json(values: Any) -> bytes:
    return json.dumps(values, allow_nan=False).encode()
