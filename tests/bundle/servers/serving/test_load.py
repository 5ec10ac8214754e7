"""Thousands of requests, right and wrong ones, of several clients at once: every answer is right, and memory stays bounded."""

import http.client
import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.bundle.complete import answer, request, write
from tests.bundle.servers.serving.served import JSON, Served, serve

CLIENTS, REQUESTS, WARM = 8, 5000, 500


def memory(served: Served) -> float:
    """Return the resident memory of the server in MiB."""
    pages = int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def draw(rng: random.Random) -> tuple[str, bytes, dict[str, str], object]:
    """Return the route, body and headers of a request, with the expected scores, or the expected status of a wrong one."""
    rows = rng.randint(1, 64)
    arrays = {name: np.roll(values, rng.randint(0, 9), axis=0) for name, values in request(rows).items()}
    scores = answer(arrays)["y"]
    kind = rng.randrange(10)
    if kind < 4:
        return "/predict", json.dumps({"inputs": {n: v.tolist() for n, v in arrays.items()}}).encode(), JSON, scores
    tensors = [
        {
            "name": n,
            "datatype": "FP32" if n == "numeric" else "INT64",
            "shape": list(v.shape),
            "data": v.ravel().tolist(),
        }
        for n, v in arrays.items()
    ]
    if kind < 8:
        return "/v2/models/sum/infer", json.dumps({"inputs": tensors}).encode(), JSON, scores
    wrong: list[tuple[bytes, dict[str, str], int]] = [
        (json.dumps({"inputs": tensors}).encode()[: rng.randint(1, 100)], JSON, 400),
        (json.dumps({"inputs": tensors[:1]}).encode(), JSON, 400),
        (rng.randbytes(rng.randint(0, 300)), JSON, 400),
        (b"[" * 50_000, JSON, 400),
        (b" " * 400_000, JSON, 413),
        (b"{}", {"Content-Type": "text/xml"}, 415),
    ]
    body, headers, status = rng.choice(wrong)
    return "/v2/models/sum/infer", body, headers, status


@pytest.mark.slow
def test_five_thousand_requests_of_eight_clients(tmp_path: Path) -> None:
    failures: list[object] = []
    peaks: list[float] = []

    def run_client(served: Served, seed: int, count: int) -> None:
        rng, connection = random.Random(seed), http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        for number in range(count):
            path, body, headers, expected = draw(rng)
            try:
                connection.request("POST", path, body, headers)
                with connection.getresponse() as response:
                    status, values = response.status, json.loads(response.read())
            except (ConnectionError, http.client.HTTPException):
                connection.close()  # refused before the body was sent
                if expected != 413:
                    failures.append((path, expected))
                continue
            if isinstance(expected, int):
                if status != expected or values.keys() != {"error"}:
                    failures.append((expected, status, values))
                continue
            scores = values["outputs"]["y"] if path == "/predict" else values["outputs"][0]["data"]
            if status != 200 or not np.allclose(scores, np.asarray(expected), rtol=1e-4, atol=1e-5):
                failures.append((path, status, scores, expected))
            if number % 100 == 0:
                peaks.append(memory(served))
        connection.close()

    def run_clients(served: Served, count: int) -> None:
        threads = [
            threading.Thread(target=run_client, args=(served, seed, count // CLIENTS)) for seed in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with serve(write(tmp_path / "bundle"), "--max-body", "300000", "--requests-at-once", "2") as served:
        run_clients(served, WARM)
        warm = max(peaks)
        run_clients(served, REQUESTS)
        assert not failures, failures[:3]
        assert max(peaks) < warm + 40, (warm, max(peaks))
