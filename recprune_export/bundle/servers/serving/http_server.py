"""The HTTP server: requests are read within limits of size, time and number, and answered in JSON."""

import argparse
import contextlib
import io
import json
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .json_tensors import SHOWN, RequestError
from .onnx_model import MODEL, OnnxModel
from .prediction_service import PredictionService
from .row_fields import RawRows

CONNECTIONS = 64
WAIT = 30.0  # seconds that a request waits for other requests


class TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline, even if the bytes arrive slowly."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.deadline = connection, math.inf

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the available bytes. Raises `TimeoutError` at the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class RequestHandler(BaseHTTPRequestHandler):
    """Reads a request within the limits, and answers it in JSON, errors included."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "PredictionServer"

    def setup(self) -> None:
        super().setup()
        self.reader = TimedReader(self.connection)
        self.rfile = io.BufferedReader(self.reader)

    def handle_one_request(self) -> None:
        self.reader.deadline = time.monotonic() + self.server.limits.timeout
        super().handle_one_request()

    def do_GET(self) -> None:
        self.close_connection |= self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        self._answer(lambda path: self.server.service.get(path))

    def do_POST(self) -> None:
        self._answer(lambda path: self._compute(path, self._read_body()))

    def handle_expect_100(self) -> bool:
        try:
            self._check_headers()
        except RequestError as error:
            self.close_connection = True
            self.reply(error.status, {"error": str(error)})
            return False
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True
        self.reply(HTTPStatus(code), {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a proxy in front of this server logs requests."""

    def _answer(self, make: Any) -> None:
        path = unquote(urlsplit(self.path).path).rstrip("/")
        try:
            status, values = HTTPStatus.OK, make(path)
        except RequestError as error:
            status, values = error.status, {"error": str(error)}
        except TimeoutError:
            self.close_connection = True
            status, values = (
                HTTPStatus.REQUEST_TIMEOUT,
                {"error": f"The body did not arrive within {self.server.limits.timeout:g} s."},
            )
        except OSError:
            raise  # the client closed the connection
        except Exception:
            traceback.print_exc()
            status, values = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "The server failed; see its log."}
        self.reply(status, values)

    def _check_headers(self) -> int:
        """Return the length of the body. Raises `RequestError` for a body that is not accepted."""
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,18}", length):
            raise RequestError("Give the Content-Length of the body.", HTTPStatus.LENGTH_REQUIRED)
        kind = self.headers.get_content_type() if "Content-Type" in self.headers else "application/json"
        if kind != "application/json":
            raise RequestError(
                f"The Content-Type is {kind[:SHOWN]}: send application/json.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            )
        if "Inference-Header-Content-Length" in self.headers:
            raise RequestError("Send tensors as JSON: this server does not support the binary tensor data extension.")
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise RequestError("Send the body without Content-Encoding.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if int(length) > self.server.limits.max_body:
            raise RequestError(
                f"The body has {int(length):,} bytes, but this server accepts at most {self.server.limits.max_body:,}.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return int(length)

    def _read_body(self) -> bytes:
        keep, self.close_connection = self.close_connection, True  # until the body is read
        length = self._check_headers()
        body = self.rfile.read(length)
        if len(body) < length:
            raise RequestError(f"The body ended after {len(body)} of {length} bytes.")
        self.close_connection = keep
        return body

    def _compute(self, path: str, body: bytes) -> dict[str, Any]:
        server = self.server
        if not server.turns.acquire(timeout=WAIT):
            raise RequestError("The server is busy: try again.", HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return server.service.post(path, body)
        finally:
            server.turns.release()

    def reply(self, status: HTTPStatus, values: Mapping[str, Any]) -> None:
        """Send an answer, within the time limit."""
        body = json.dumps(values, allow_nan=False).encode()
        head = [
            f"HTTP/1.1 {int(status)} {status.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        head += ["Connection: close"] if self.close_connection else []
        self.connection.settimeout(self.server.limits.timeout)
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + body)


class PredictionServer(ThreadingHTTPServer):
    """One thread for each connection, up to `CONNECTIONS` of them; further ones are refused immediately."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, service: PredictionService, limits: argparse.Namespace) -> None:
        self.service, self.limits = service, limits
        self.places = threading.BoundedSemaphore(CONNECTIONS)
        self.turns = threading.BoundedSemaphore(limits.requests_at_once)
        super().__init__((limits.host, limits.port), RequestHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.places.acquire(blocking=False):
            body = b'{"error": "The server has too many connections: try again."}'
            head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            request.settimeout(0.1)
            with contextlib.suppress(OSError):
                request.sendall(head % len(body) + body)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a closed connection is not an error
            traceback.print_exc()

    def finish(self) -> None:
        """Wait until running requests are finished."""
        for _ in range(self.limits.requests_at_once):
            self.turns.acquire(timeout=self.limits.timeout)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""

    def positive(text: str) -> int:
        number = int(text)
        if number < 1:
            raise ValueError
        return number

    parser = argparse.ArgumentParser(description="Serve this bundle with ONNX Runtime.")
    parser.add_argument(
        "--bundle",
        type=Path,
        default=Path(__file__).parents[1],
        help="folder of the bundle  [default: the folder of this file]",
    )
    parser.add_argument("--file", default=MODEL, help="ONNX file to serve  [default: model.onnx]")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--threads", type=positive, help="threads per request  [default: the number in the manifest]")
    parser.add_argument("--requests-at-once", type=positive, default=os.cpu_count() or 1, help="  [default: the CPUs]")
    parser.add_argument(
        "--max-batch", type=positive, help="largest number of rows per request  [default: the number in the manifest]"
    )
    parser.add_argument(
        "--max-body", type=positive, default=8 << 20, help="largest size of a request in bytes  [default: 8 MiB]"
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to receive a request  [default: 10]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    options = parse_arguments(arguments)
    model = OnnxModel(options.bundle, options.file, options.max_batch, options.threads)
    has_encoding = options.file == MODEL and (options.bundle / "encoding.json").is_file()
    service = PredictionService(model, RawRows(options.bundle, model.shared) if has_encoding else None)
    try:
        server = PredictionServer(service, options)
    except OSError as error:
        raise SystemExit(f"{options.host}:{options.port} cannot be served: {error.strerror}.") from None

    def stop(*_: Any) -> None:
        service.is_ready = False
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    port = server.server_address[1]
    threads = f"{model.threads} thread{'s' if model.threads > 1 else ''}"
    print(
        f"{model.name} at http://{options.host}:{port}, {threads} per request, {options.requests_at_once} concurrent requests.",
        flush=True,
    )
    with server:
        server.serve_forever(poll_interval=0.1)
        server.finish()
