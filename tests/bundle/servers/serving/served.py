"""Start the program of a bundle, and send it requests."""

import contextlib
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Served:
    """A running server: its address, the name of its model, and its process."""

    port: int
    model: str
    process: subprocess.Popen[str]

    def ask(
        self, path: str, body: object = None, *, method: str | None = None, headers: dict[str, str] = JSON
    ) -> tuple[int, Any]:
        """Return the status and the object of the answer; a body that is no text is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, content, headers)
        with contextlib.closing(connection), connection.getresponse() as answer:
            return answer.status, json.loads(answer.read())

    def infer(self, body: object) -> tuple[int, Any]:
        return self.ask(f"/v2/models/{self.model}/infer", body)


@contextlib.contextmanager
def serve(bundle: Path, *options: str) -> Iterator[Served]:
    """Run the program of the bundle as one that finds none of our packages; it has to end by SIGTERM, without a traceback."""
    hidden = ["recprune_export", "polars", "torch", "onnx", "pydantic"]
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        f"sys.path.insert(0, {str(bundle)!r}); sys.argv = ['serve', '--port', '0', *{list(options)}]\n"
        f"runpy.run_path({str(bundle / 'serve_onnxruntime.py')!r}, run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=bundle
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(\S+) at http://127\.0\.0\.1:(\d+), ", line)
        assert found is not None, (line, process.stderr.read() if process.stderr else "")
        yield Served(int(found[2]), found[1], process)
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, ""), errors
    finally:
        process.kill()
        process.wait()
