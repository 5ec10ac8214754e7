"""Responses of the routes: a plain route, and those of the KServe v2 protocol (Open Inference Protocol)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import numpy as np

from .json_tensors import RequestError, check_names, parse_json, show, to_list
from .onnx_model import VERSION, OnnxModel
from .row_fields import RawRows


class PredictionService:
    """Responses of the routes: a status and an object."""

    def __init__(self, model: OnnxModel, rows: RawRows | None) -> None:
        self.model, self.rows, self.is_ready = model, rows, True
        self.routes = (
            f"POST /predict, POST /v2/models/{model.name}/infer, GET /v2/models/{model.name}, GET /v2/health/ready"
        )

    def get(self, path: str) -> dict[str, Any]:
        """Answer a GET. Raises `RequestError` for an unknown path."""
        model = f"/v2/models/{self.model.name}"
        if path == "/v2":
            return {"name": "serve_onnxruntime.py", "version": VERSION, "extensions": []}
        if path == "/v2/health/live":
            return {"live": True}
        if path in ("/v2/health/ready", f"{model}/ready", f"{model}/versions/{VERSION}/ready"):
            if not self.is_ready:
                raise RequestError("The server is stopping.", HTTPStatus.SERVICE_UNAVAILABLE)
            return {"ready": True} if path.startswith("/v2/health") else {"name": self.model.name, "ready": True}
        if path in (model, f"{model}/versions/{VERSION}"):
            return self.model.metadata()
        raise self.unknown_route(path)

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer a POST. Raises `RequestError` if the body cannot be answered."""
        model = f"/v2/models/{self.model.name}"
        if path == "/predict":
            return self.predict(parse_json(body))
        if path in (f"{model}/infer", f"{model}/versions/{VERSION}/infer"):
            return self.infer(parse_json(body))
        raise self.unknown_route(path)

    def unknown_route(self, path: str) -> RequestError:
        """Return the error for an unknown path, which lists the existing paths."""
        return RequestError(f"{path[:200]} does not exist; the routes are {self.routes}.", HTTPStatus.NOT_FOUND)

    def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer rows of raw values, or the inputs by name."""
        if ("rows" in body) == ("inputs" in body):
            raise RequestError("The body must have either 'rows' or 'inputs'.")
        if "rows" in body:
            if self.rows is None:
                raise RequestError(
                    f"This bundle has no encoding of raw values: give 'inputs', an object with {', '.join(self.model.inputs)}."
                )
            if isinstance(body["rows"], list) and len(body["rows"]) > self.model.max_batch:
                raise RequestError(
                    f"The request has {len(body['rows'])} rows, but this server accepts at most {self.model.max_batch}.",
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                )
            inputs: Any = self.rows.encode(body["rows"])
        else:
            inputs = body["inputs"]
        if not isinstance(inputs, dict):
            raise RequestError(f"'inputs' must be an object with {', '.join(self.model.inputs)}.")
        check_names(inputs, self.model.inputs)
        arrays = {name: tensor.make_array(inputs[name]) for name, tensor in self.model.inputs.items()}
        return {"outputs": {name: to_list(array) for name, array in self.model.run(arrays).items()}}

    def infer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request of the KServe v2 protocol."""
        refuse_parameters(body, "The request")
        arrays: dict[str, np.ndarray] = {}
        for tensor in read_entries(body, "inputs"):
            name = tensor["name"]
            if name in arrays:
                raise RequestError(f"'inputs' contains {show(name)} twice.")
            arrays[name] = self.read_tensor(tensor)
        wanted = [entry["name"] for entry in read_entries(body, "outputs")] if body.get("outputs") else []
        unknown = next((name for name in wanted if name not in self.model.outputs), None)
        if unknown is not None:
            raise RequestError(f"The model has no output {show(unknown)}: it has {', '.join(self.model.outputs)}.")
        answers = self.model.run(arrays)
        outputs = []
        for name in wanted or answers:
            array = answers[name]
            entry = {"name": name, "datatype": self.model.outputs[name].datatype, "shape": list(array.shape)}
            outputs.append({**entry, "data": to_list(array.ravel())})
        identity = {"id": body["id"]} if isinstance(body.get("id"), str) else {}
        return {"model_name": self.model.name, "model_version": VERSION, **identity, "outputs": outputs}

    def read_tensor(self, entry: Mapping[str, Any]) -> np.ndarray:
        """Return the array of an entry of `inputs`."""
        name, shape = entry["name"], entry.get("shape")
        tensor = self.model.inputs.get(name)
        if tensor is None:
            raise RequestError(f"The model has no input {show(name)}: it expects {', '.join(self.model.inputs)}.")
        if entry.get("datatype") != tensor.datatype:
            raise RequestError(
                f"'{name}' has the datatype {show(entry.get('datatype'))}, but the model expects {tensor.datatype}."
            )
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise RequestError(f"'shape' of '{name}' must be a list of sizes, not {show(shape)}.")
        if not isinstance(entry.get("data"), list):
            raise RequestError(f"'{name}' has no list 'data'.")
        return tensor.make_array(entry["data"], shape)


def read_entries(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the list of tensors under a key, each with a name. Raises `RequestError` if it is not such a list."""
    entries = body.get(key)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries
    ):
        raise RequestError(f"'{key}' must be a list of objects, each with a 'name'.")
    for entry in entries:
        refuse_parameters(entry, f"'{entry['name']}'")
    return entries


def refuse_parameters(entry: Mapping[str, Any], where: str) -> None:
    """Raise `RequestError` for extensions of the protocol that are not supported, and would change the answer."""
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError(f"'parameters' of {where} must be an object.")
    for key in ("binary_data", "binary_data_size", "binary_data_output", "classification"):
        if parameters.get(key):
            raise RequestError(f"{where} has the parameter '{key}': this server supports tensors only as JSON.")
