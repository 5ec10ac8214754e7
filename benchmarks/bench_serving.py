"""Requests a second, latency and memory of the program that serves a bundle, on the golden requests of the bundle.

    python benchmarks/bench_serving.py BUNDLE [--seconds 5]

BUNDLE was made from a checkpoint of `train`, so that it has samples for both routes. The server and its clients share the machine. Prints
a table, and JSON as the last line.
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np

from recprune_export.bundle import read_manifest
from recprune_export.environment import environment

HOST = "127.0.0.1"
CLIENTS = (1, 8)


def start(bundle: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the program of a bundle on a free port, and wait until it is ready."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "serve_onnxruntime.py", "--host", HOST, "--port", str(port)]
    server = subprocess.Popen(command, cwd=bundle, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=1)
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return server, port
        except OSError:
            time.sleep(0.05)
    server.kill()
    raise click.ClickException(f"The server of {bundle} is not ready after 10 s.")


def ask(port: int, path: str, body: bytes, until: float, times: list[float]) -> None:
    """Send one request after another on one connection, and append their seconds."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    while time.perf_counter() < until:
        begin = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            response.read()
            if response.status != 200:
                raise click.ClickException(f"{path} answers {response.status}.")
        times.append(time.perf_counter() - begin)


def measure(port: int, path: str, body: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Return requests a second, and milliseconds of a request, of so many clients at once."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    threads = [threading.Thread(target=ask, args=(port, path, body, until, times)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    median, late = np.percentile(times, [50, 99]) * 1e3
    return {"requests_per_second": len(times) / seconds, "median_ms": float(median), "p99_ms": float(late)}


def read_resident_mib(process: int) -> float:
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--seconds", default=5.0, show_default=True)
def main(bundle: Path, seconds: float) -> None:
    name = read_manifest(bundle).name
    routes = {
        "/predict": (bundle / "samples/predict-request.json").read_bytes(),
        f"/v2/models/{name}/infer": (bundle / "samples/kserve-request.json").read_bytes(),
    }
    server, port = start(bundle)
    results = []
    try:
        print(f"{'route':<32} bytes  clients  requests/s  median ms  p99 ms  resident MiB")
        for path, body in routes.items():
            measure(port, path, body, 1, 1.0)  # warms up
            for clients in CLIENTS:
                found = measure(port, path, body, clients, seconds)
                found["resident_mib"] = read_resident_mib(server.pid)
                results.append({"route": path, "bytes": len(body), "clients": clients, **found})
                print(
                    f"{path:<32} {len(body):>5}  {clients:>7}  {found['requests_per_second']:>10.0f}  "
                    f"{found['median_ms']:>9.2f}  {found['p99_ms']:>6.1f}  {found['resident_mib']:>12.0f}"
                )
    finally:
        server.kill()
    print(json.dumps({"benchmark": "serving", "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
