"""The golden request of a bundle is answered by mlserver, and by our program through the client of Triton."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundle.complete import write
from tests.bundle.servers.runtimes import find_mlserver
from tests.bundle.servers.serving.served import serve

HERE = Path(__file__).parent
CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as client

port, model, sample = sys.argv[1:]
asked = json.load(open(sample))
types = {"INT64": np.int64, "FP32": np.float32}
server = client.InferenceServerClient(f"127.0.0.1:{port}")
assert server.is_server_live() and server.is_server_ready() and server.is_model_ready(model)
assert [t["name"] for t in server.get_model_metadata(model)["inputs"]] == [t["name"] for t in asked["inputs"]]
inputs = []
for tensor in asked["inputs"]:
    inputs.append(client.InferInput(tensor["name"], tensor["shape"], tensor["datatype"]))
    array = np.array(tensor["data"], types[tensor["datatype"]]).reshape(tensor["shape"])
    inputs[-1].set_data_from_numpy(array, binary_data=False)
outputs = [client.InferRequestedOutput(o["name"], binary_data=False) for o in asked["outputs"]]
answer = server.infer(model, inputs, outputs=outputs, request_id="golden")
print(json.dumps({o["name"]: answer.as_numpy(o["name"]).tolist() for o in asked["outputs"]}))
for tensor, wrong in zip(asked["inputs"], inputs):
    wrong.set_data_from_numpy(np.array(tensor["data"], types[tensor["datatype"]]).reshape(tensor["shape"]), binary_data=True)
try:
    server.infer(model, inputs, outputs=outputs)
except Exception as error:
    print(error)
"""


@contextmanager
def run_mlserver(python: Path, bundle: Path, folder: Path) -> Iterator[str]:
    """Serve `model.onnx` with the runtime beside this file; yield the address."""
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    folder.mkdir()
    shutil.copy(HERE / "mlserver_onnx.py", folder)
    model = {
        "name": "sum",
        "implementation": "mlserver_onnx.OnnxModel",
        "parameters": {"uri": str(bundle / "model.onnx")},
    }
    http, grpc, metrics = ports
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(json.dumps(settings))
    log = (folder / "log").open("w")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(folder), "ORT_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [str(python), "-m", "mlserver.cli.main", "start", str(folder)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    address = f"http://127.0.0.1:{http}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{address}/v2/models/sum/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def post(url: str, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, None


@pytest.mark.slow
def test_mlserver_answers_the_golden_request(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    with run_mlserver(find_mlserver(), bundle, tmp_path / "mlserver") as address:
        status, answered = post(f"{address}/v2/models/sum/infer", (bundle / "samples/kserve-request.json").read_bytes())
        # The shapes of Triton are not those of the model, which is why there are two pairs.
        reshaped, _ = post(f"{address}/v2/models/sum/infer", (bundle / "samples/triton-request.json").read_bytes())
    golden = json.loads((bundle / "samples/kserve-response.json").read_text())
    assert status == 200
    assert reshaped >= 400
    assert answered["id"] == golden["id"]
    (said,), (expected,) = answered["outputs"], golden["outputs"]
    # The codec of mlserver writes one number for each row as [rows, 1].
    assert (said["name"], said["datatype"]) == (expected["name"], expected["datatype"])
    np.testing.assert_allclose(said["data"], expected["data"], rtol=1e-5)


@pytest.mark.slow
def test_the_client_of_triton_is_answered_by_the_program_of_the_bundle(tmp_path: Path) -> None:
    python, bundle = find_mlserver(), write(tmp_path / "bundle")
    (tmp_path / "client.py").write_text(CLIENT)
    with serve(bundle) as served:
        command = [str(python), str(tmp_path / "client.py"), str(served.port), "sum"]
        done = subprocess.run(
            [*command, str(bundle / "samples/kserve-request.json")], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    answered, refused = done.stdout.splitlines()
    golden = json.loads((bundle / "samples/kserve-response.json").read_text())
    np.testing.assert_allclose(json.loads(answered)["y"], golden["outputs"][0]["data"], rtol=1e-5)
    assert "does not support the binary tensor data extension" in refused
